"""A login to a target: what was uploaded into a directory of its own, and the agents started there.

A shell on the target holds that directory and takes it away when its input ends, or is silent for
too long: when the session is closed, the connection breaks, or the network is gone without a word.
Its channel is open as long as the session: dropbear hangs up when the last one closes.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from harness.agent.link import Link
from harness.errors import HungUp, TargetFailed, UserError
from harness.paths import built, built_objects
from harness.target.bridge import ALONE_S, BEAT, GONE, bridge
from harness.target.login import log_in
from harness.target.pulse import SILENT_S, Pulse

if TYPE_CHECKING:
    from collections.abc import Callable

    import paramiko

    from harness.machine.hang.findings import Hang
    from harness.target.login import Login

ANSWER_S = 30.0
SETTLE_S = 1.0
END_S = SILENT_S + 60
"""How long the agent may take to clear up behind itself; a silent peer is given up before that."""
SYSTEM = "Linux x86_64"
UP = "see that the machine is up, and the network to it"
HOLD = """\
umask 077
timeout 9 true || exit
d=$(mktemp -d "${TMPDIR:-/tmp}/cpumap-lab.XXXXXX") || exit
trap 'rm -rf "$d"' EXIT
trap exit HUP INT TERM
echo "$d"
uname -sm
if [ "$(id -u)" = 0 ]; then echo root; elif sudo -n true; then echo sudo; else echo "nobody"; fi
while [ "$(timeout $1 head -c 1)" = $2 ]; do :; done
"""
"""Makes the directory, says where it is and who we are there, and waits for the end, or until $1
seconds have brought no beat, which is $2."""


@dataclass(frozen=True, slots=True)
class Started:
    """An agent that was started.

    Attributes:
        link: to it.
        channel: that the link goes over.
    """

    link: Link
    channel: paramiko.Channel


class Session:
    """A login to a target.

    Args:
        login: where, and as whom.

    Attributes:
        login: the same.
        directory: on the target; it goes with the session.

    Raises:
        UserError: the login is refused, or the target is no machine for the agent.
        TargetFailed: the target cannot be reached, or not be written to.
    """

    def __init__(self, login: Login) -> None:
        self.login = login
        with contextlib.ExitStack() as undo:
            self._client = undo.enter_context(contextlib.closing(log_in(login)))
            transport = self._client.get_transport()
            assert transport is not None
            self._transport = transport
            self._pulse = Pulse(transport)
            hold = shlex.join(["exec", "sh", "-c", HOLD, "sh", str(ALONE_S), BEAT.decode()])
            self._holder = self._exec(hold)
            self._hold = undo.enter_context(bridge(self._holder))
            self._hold.settimeout(ANSWER_S)
            self.directory, self._become = self._arrive()
            self._upload()
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Have the target's shell take the directory away, see it done, and log out."""
        with contextlib.suppress(*GONE):
            self._hold.shutdown(socket.SHUT_WR)
            self._holder.status_event.wait(END_S)
        self._undo.close()

    def hang_up(self) -> None:
        """Close the connection and nothing else: the target finds out by itself."""
        self._client.close()

    @property
    def alive(self) -> bool:
        """Whether the connection stands."""
        alive: bool = self._transport.is_active()
        return alive

    def start_agent(
        self, *, deadline_s: float, examine: Callable[[str], Hang | None] = lambda _: None
    ) -> Started:
        """Start an agent in a world of its own; arguments as of `Link`.

        Raises:
            TargetFailed: the connection has broken.
        """
        agent = shlex.quote(f"{self.directory}/agent")
        apart = f"--apart {shlex.quote(self.directory)} {ALONE_S}"
        channel = self._exec(f"exec {self._become}{agent} {apart}")

        def why() -> str:
            return self._why(channel)

        link = Link(bridge(channel), deadline_s=deadline_s, examine=examine, gone=why)
        return Started(link, channel)

    def read_file(self, path: str) -> bytes | None:
        """Return a file of the target's; None if there is none that we may read."""
        with contextlib.suppress(*GONE), self._client.open_sftp() as sftp, sftp.open(path) as file:
            content: bytes = file.read()
            return content
        return None

    def end_agent(self, started: Started) -> str:
        """End an agent, wait until it has cleared up, and return what it said.

        Raises:
            TargetFailed: it does not end.
        """
        started.link.close()
        if not started.channel.status_event.wait(END_S):
            raise TargetFailed(f"the agent on {self.login.address} does not end ({END_S:.0f} s)")
        return _said(started.channel)

    def _why(self, channel: paramiko.Channel) -> str:
        channel.status_event.wait(SETTLE_S)  # it comes after the end of the stream
        if self._pulse.stopped:
            return f"{self._silence}: {UP} (what was made there goes by itself)"
        if not self.alive:
            return f"the connection to {self.login.address} broke"
        said = _said(channel)
        return f"the agent on {self.login.address} has ended{f': {said}' if said else ''}"

    def _exec(self, command: str) -> paramiko.Channel:
        try:
            channel = self._transport.open_session(timeout=ANSWER_S)
            channel.exec_command(command)
        except GONE as error:  # of this channel, or of all
            if self._pulse.stopped:
                raise self._failed("is silent", error) from None
            raise HungUp(f"{self.login.address} does not run commands: {error}") from error
        return channel

    def _arrive(self) -> tuple[str, str]:
        """Return the directory that the holder made, and how to become root there."""
        try:
            with self._hold.makefile("r") as lines:
                directory, system, who = (lines.readline().strip() for _ in range(3))
        except GONE as error:
            raise self._failed("does not answer", error) from None
        if not who:
            raise self._failed("gives no directory to work in", _said(self._holder) or "no word")
        if system != SYSTEM:
            raise UserError(
                f"{self.login.address} is {system}: the lab's agent is a program for {SYSTEM}"
            )
        if who == "nobody":
            raise UserError(
                f"{self.login.user} is not root on {self.login.address}, and sudo wants a password "
                f"or is not there ({_said(self._holder)}): programs and maps take root",
                remedy="log in as root, or have `sudo -n true` work there",
            )
        return directory, "sudo -n " if who == "sudo" else ""

    def _upload(self) -> None:
        try:
            with self._client.open_sftp() as sftp:
                for path in (built("agent"), *built_objects()):
                    there = f"{self.directory}/{path.name}"
                    sftp.put(str(path), there)
                    sftp.chmod(there, 0o700)
        except GONE as error:
            raise self._failed(f"takes no files over SFTP in {self.directory}", error) from None

    @property
    def _silence(self) -> str:
        return f"nothing was heard from {self.login.address} for {SILENT_S:.0f} s"

    def _failed(self, what: str, why: object) -> TargetFailed:
        self._transport.join(SETTLE_S)  # it ends its channels first, and is dead after that
        if self._pulse.stopped:
            return TargetFailed(self._silence, remedy=UP)
        kind = TargetFailed if self.alive else HungUp
        return kind(f"{self.login.address} {what}: {why or 'it hung up'}")


def _said(channel: paramiko.Channel) -> str:
    """Return what a command has printed to its standard error."""
    said = b""
    with contextlib.suppress(*GONE):
        while channel.recv_stderr_ready():
            said += channel.recv_stderr(1 << 16)
    return said.decode("utf-8", "replace").strip()
