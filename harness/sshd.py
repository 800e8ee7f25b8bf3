"""An sshd in a guest that has a NIC for it: a person logs in, paramiko fetches files.

That NIC is on QEMU's user network, which lets nobody in but through one port of the host's loopback
interface, and nothing out. Keys are made for each guest and live as long as it does.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from harness.agent.syscalls import Syscalls
from harness.errors import AgentLost, QemuFailed, UserError
from harness.machine.command import SSH_GUEST
from harness.patience import wait_until
from harness.toolbox import (
    BUSYBOX,
    SFTP,
    SSHD,
    fetch_tool,
    install_shell,
    make_directories,
    pack,
    put,
    upload,
)

if TYPE_CHECKING:
    from pathlib import Path

    from harness.apt import Progress
    from harness.machine.machine import Machine

READY_S = 30.0
POLL_S = 0.05
KEY_TYPE = b"ssh-ed25519"
HOST_KEY = "/etc/dropbear/host_key"
LOG = "/run/sshd.log"
SIGKILL = 9
LISTENS = b":0016 00000000:0000 0A"
"""Of port 22, in /proc/net/tcp (net/ipv4/tcp_ipv4.c, get_tcp4_sock)."""
FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)")


@dataclass(frozen=True, slots=True)
class Door:
    """The way into a guest.

    Attributes:
        port: on the host's loopback interface.
        directory: private, with the key to log in, the guest's public one and ssh's configuration;
            it goes with the guest.
    """

    port: int
    directory: Path

    @property
    def line(self) -> str:
        """The command that logs in; sftp and scp take the same option."""
        return f"ssh -F {self.directory / 'ssh_config'} guest"

    def connect(self) -> paramiko.SSHClient:
        """Return a connection to the guest, its host key checked.

        dropbear may hang up when the last of its channels closes: keep one open till the end.

        Raises:
            paramiko.SSHException, OSError: there is no sshd, or not the guest's.
        """
        client = paramiko.SSHClient()
        client.load_host_keys(str(self.directory / "known_hosts"))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        key = paramiko.Ed25519Key.from_private_key_file(str(self.directory / "key"))
        try:
            client.connect(
                "127.0.0.1", self.port, "root", pkey=key, look_for_keys=False, allow_agent=False
            )
        except BaseException:
            client.close()
            raise
        return client


def open_door(machine: Machine, *, progress: Progress | None = None) -> Door:
    """Start an sshd in a guest, with new keys, and see that one can log in.

    Raises:
        UserError: the guest has no NIC for it.
        ToolMissing: the sshd cannot be fetched.
        AgentLost, QemuFailed: the sshd does not come up.
    """
    if not machine.recipe.topology.ssh:
        raise UserError(
            "the guest has no NIC for SSH, and cannot be given one",
            remedy="take the prompt without --ssh, or run its scenario with `ssh: true`",
        )
    tools = [(tool, fetch_tool(tool, progress=progress)) for tool in (BUSYBOX, SSHD, SFTP)]
    calls = Syscalls(machine.link)
    upload(calls, pack(tools))
    install_shell(calls)
    for pid, _ in machine.link.call("threads", "dropbear"):  # of a guest that was frozen with one
        calls.must("kill", pid, SIGKILL)
        calls.must("wait4", pid, 0, 0, 0)
    door = Door(_port(machine), machine.directory / "ssh")
    _exchange_keys(calls, door)
    listen = f"exec {SSHD.target} -F -E -s -m -r {HOST_KEY} -p {SSH_GUEST}:22 2>{LOG}"
    machine.link.call("spawn", "exec", [BUSYBOX.target, "sh", "-c", listen], -1, 0, 0)
    _wait(door, machine)
    return door


def _port(machine: Machine) -> int:
    """Return the port that QEMU forwards to the guest's sshd."""
    told = machine.qmp("human-monitor-command", **{"command-line": "info usernet"})
    if (match := FORWARD.search(told)) is None:
        raise QemuFailed(f"QEMU forwards no port to the guest's sshd: {told.strip()!r}")
    return int(match[1])


def _exchange_keys(calls: Syscalls, door: Door) -> None:
    """Make the guest's key and the person's, and make each known to the other."""
    host, user = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    seed = host.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    both = seed + host.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    # dropbear's own format (its ed25519.c, buf_put_ed25519_priv_key)
    packed = struct.pack(">I11sI", len(KEY_TYPE), KEY_TYPE, len(both)) + both
    make_directories(calls, ["/etc/dropbear"], 0o700)
    put(calls, HOST_KEY, packed, 0o600)
    put(calls, "/root/.ssh/authorized_keys", _public(user) + b"\n", 0o600)
    directory = door.directory
    directory.mkdir(mode=0o700, exist_ok=True)
    config = (
        f"Host guest\n  HostName 127.0.0.1\n  Port {door.port}\n  User root\n"
        f"  IdentityFile {directory / 'key'}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {directory / 'known_hosts'}\n  StrictHostKeyChecking yes\n"
    )
    private = user.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    known = b"[127.0.0.1]:%d %s\n" % (door.port, _public(host))
    for name, content in (
        ("key", private),
        ("known_hosts", known),
        ("ssh_config", config.encode()),
    ):
        path = directory / name
        path.touch(0o600)
        path.write_bytes(content)


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def _wait(door: Door, machine: Machine) -> None:
    """Wait until the sshd listens, and see that it lets us in."""
    limit = READY_S * machine.recipe.accel.pace

    def listens() -> bool:
        return LISTENS in machine.link.call("read", "/proc/net/tcp", 1 << 16)

    if not wait_until(listens, limit, poll_s=POLL_S):
        log: bytes = machine.link.call("read", LOG, 4096)
        raise AgentLost(f"the guest's sshd does not listen; it says {log.decode()!r}")
    try:
        door.connect().close()
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise AgentLost(f"the guest's sshd does not let us in: {error}") from error
