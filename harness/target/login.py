"""Log in to a target as ssh(1) would: its configuration, known hosts, agent and key files.

A host key that is not known is refused, a password is never asked for, and nothing of either is
logged.
"""

from __future__ import annotations

import getpass
import logging
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from harness.errors import TargetFailed, UserError

if TYPE_CHECKING:
    from harness.target.address import Address

CONNECT_S = 20.0
KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Login:
    """What ~/.ssh/config makes of an address.

    Attributes:
        address: as it was asked for.
        host: name or address to connect to.
        port: to connect to.
        user: to log in as.
        keys: private key files, in order; those of ssh-agent and the usual ones come as well.
        known_hosts: files of host keys.
    """

    address: Address
    host: str
    port: int
    user: str
    keys: tuple[str, ...]
    known_hosts: tuple[str, ...]

    @classmethod
    def of(cls, address: Address, *, config: Path | None = None) -> Login:
        """Look an address up in a configuration of ssh's; ~/.ssh/config by default.

        Raises:
            UserError: the configuration cannot be read, or asks for a proxy.
        """
        path = config or Path("~/.ssh/config").expanduser()
        ssh = paramiko.SSHConfig()
        try:
            if path.exists():
                ssh = paramiko.SSHConfig.from_path(str(path))
            said = ssh.lookup(address.host)
        except (OSError, paramiko.ConfigParseError, UnicodeError) as error:
            raise UserError(f"cannot read {path}: {error}") from None
        for proxy in ("proxyjump", "proxycommand"):
            if said.get(proxy, "none") != "none":
                raise UserError(
                    f"{path} has a {proxy} for {address.host}, which the lab does not follow",
                    remedy=f"forward a port yourself: ssh -N -L 2222:localhost:22 {address.host}, "
                    "and take ssh://user@localhost:2222",
                )
        files = said.get("userknownhostsfile")
        return cls(
            address,
            str(said.get("hostname", address.host)),
            address.port or int(said.get("port", 22)),
            address.user or str(said.get("user", getpass.getuser())),
            tuple(str(Path(key).expanduser()) for key in said.get("identityfile", ())),
            tuple(shlex.split(files)) if files else KNOWN_HOSTS,
        )

    @property
    def name(self) -> str:
        """What known_hosts calls the host."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"


def log_in(login: Login) -> paramiko.SSHClient:
    """Return a connection, the host's key checked.

    Raises:
        UserError: the host is not known, has another key than the known one, or does not let us
            in: nobody but the user can change that.
        TargetFailed: it cannot be reached, or speaks no SSH.
    """
    client = paramiko.SSHClient()
    for name in login.known_hosts:
        path = Path(name).expanduser()
        if path.is_file():
            try:
                client.load_system_host_keys(str(path))
            except (OSError, paramiko.SSHException, ValueError) as error:
                raise UserError(f"cannot read {path}: {error}") from None
    client.set_missing_host_key_policy(_Refuse(login))
    try:
        sock = socket.create_connection((login.host, login.port), CONNECT_S)
    except OSError as error:
        raise TargetFailed(
            f"{login.address} cannot be reached at port {login.port}: {error.strerror or error}",
            remedy="is the machine up, its address right, and does its sshd listen there?",
        ) from None
    try:
        _connect(client, login, sock)
    except BaseException:
        client.close()
        sock.close()
        raise
    return client


def _connect(client: paramiko.SSHClient, login: Login, sock: socket.socket) -> None:
    try:
        client.connect(
            login.host,
            login.port,
            login.user,
            sock=sock,
            key_filename=[key for key in login.keys if Path(key).is_file()] or None,
            timeout=CONNECT_S,
            banner_timeout=CONNECT_S,
            auth_timeout=CONNECT_S,
        )
    except paramiko.BadHostKeyException as error:
        raise UserError(
            f"{login.address} has another host key than known_hosts: it is not the machine that it "
            f"was, or somebody is in between ({_fingerprint(error.key)})",
            remedy=f"if the machine was set up anew: ssh-keygen -R '{login.name}', then log in "
            "with ssh once and check the new key",
        ) from None
    except paramiko.PasswordRequiredException:
        raise UserError(
            f"a key for {login.address} has a passphrase", remedy="ssh-add it to ssh-agent first"
        ) from None
    except (paramiko.SSHException, OSError, EOFError) as error:
        transport = client.get_transport()
        # with several kinds of keys the last error may be of one that is of another kind
        refused = isinstance(error, paramiko.AuthenticationException)
        if refused or (transport and transport.initial_kex_done and transport.is_active()):
            keys = ", ".join(login.keys) or "the usual ones in ~/.ssh"
            raise UserError(
                f"{login.address} does not let {login.user} in (keys tried: those of ssh-agent, "
                f"{keys})",
                remedy=f"see that `{_ssh(login)} true` works without a question; ssh-copy-id "
                "brings your key there",
            ) from None
        raise TargetFailed(
            f"{login.address} does not talk SSH at port {login.port}: {str(error) or 'it hung up'}",
            remedy=f"see what `{_ssh(login)} true` says",
        ) from None


class _Refuse(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """Refuse a host whose key is not known, and say how to come to know it."""

    def __init__(self, login: Login) -> None:
        self._login = login

    def missing_host_key(self, _client: object, _hostname: str, key: paramiko.PKey) -> None:
        """Refuse a host.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{self._login.address} is not a known host ({_fingerprint(key)})",
            remedy=f"log in with `{_ssh(self._login)}` once and check that fingerprint",
        )


def _fingerprint(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.fingerprint}"


def _ssh(login: Login) -> str:
    port = f" -p {login.port}" if login.port != 22 else ""
    return f"ssh{port} {login.user}@{login.address.host}"
