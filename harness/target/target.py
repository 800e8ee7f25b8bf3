"""A machine that is not ours as one that guests run on: what there is of it is its agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import TargetFailed
from harness.machine.splats import Splat, find_splats

if TYPE_CHECKING:
    import socket

    from harness.agent.link import Link
    from harness.kernels.image import RunningKernel
    from harness.machine.hang.findings import Hang
    from harness.target.address import Address
    from harness.target.session import Session, Started

CALL_S = 60.0
LEFT = "left behind"
"""What the agent says when it could not take something away (guest/agent/apart.c)."""
PACE = 2.0
"""Of deadlines: nobody knows how fast a target is."""


class Heard:
    """What the kernel has printed since we are there: a target has no console of ours."""

    def __init__(self) -> None:
        self._said = ""

    def add(self, said: str) -> None:
        """Add what it has printed since."""
        self._said += said

    def text(self) -> str:
        """Return all of it."""
        return self._said

    def tail(self, lines: int = 25) -> str:
        """Return the last lines of it."""
        return "\n".join(self._said.rstrip().split("\n")[-lines:])


class Target:
    """A target with an agent of its own; close it, and nothing is left there.

    Args:
        session: the login.
        kernel: what runs there.
        cpus: possible CPUs.
        used: of those, the first ones, which are online and asked for.
        macs: hardware addresses of the interfaces that it is to have.

    Attributes:
        nics: (): no wire leads to them.
        hang: None: a target cannot be examined from outside.
        initramfs: None: it booted by itself.
        freezes: False: it goes on.
        ended: "": nobody sees how it ends.
        argv: (): it has no command line of ours.
        threads: "": no emulator of ours runs it.
    """

    hang: Hang | None = None
    initramfs: str | None = None
    freezes = False
    ended = ""
    argv: tuple[str, ...] = ()
    threads = ""
    pace = PACE

    def __init__(
        self,
        session: Session,
        kernel: RunningKernel,
        *,
        cpus: int,
        used: int,
        macs: tuple[str, ...],
    ) -> None:
        self.kernel = kernel
        self.cpus = cpus
        self.used = used
        self.macs = macs
        self.nics: tuple[socket.socket, ...] = ()
        self.console = Heard()
        self._session = session
        self._agent: Started = session.start_agent(deadline_s=CALL_S * PACE)

    @property
    def address(self) -> Address:
        """Where it is."""
        return self._session.login.address

    @property
    def link(self) -> Link:
        """The way to its agent."""
        return self._agent.link

    def examine(self, _waited_for: str) -> Hang | None:
        """Return None: there is no looking into a target that does not answer."""
        return None

    def splats(self) -> list[Splat]:
        """Return what was heard of a broken kernel."""
        return find_splats(self.console.text())

    def listen(self, seconds: float) -> None:
        """Do nothing: who does not answer prints nothing that we could hear."""

    def close(self) -> None:
        """End the agent, and see it clear up behind itself.

        Raises:
            TargetFailed: it could not.
        """
        said = self._session.end_agent(self._agent)
        if LEFT in said:
            raise TargetFailed(f"the agent on {self.address}: {said}")
