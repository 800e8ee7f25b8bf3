"""The workshop where guests are a target: each a new agent on it, one after the other."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.errors import GuestError, HungUp, KernelNotFound, NotOnTarget, TargetFailed
from harness.kernels.image import RunningKernel
from harness.model.facts import parse_list
from harness.target.guest import TargetGuest
from harness.target.login import Login
from harness.target.session import Session
from harness.target.target import CALL_S, Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from harness.agent.link import Link
    from harness.machine.topology import Topology
    from harness.target.address import Address

T = TypeVar("T")
FILE_BYTES = 1 << 22
CPUS = "/sys/devices/system/cpu"
HANG_UPS = 3
"""In a row, that are put up with: dropbear now and then refuses a command, or ends."""
ENOENT = 2


def patiently(do: Callable[[], T], say: Callable[[str], None] = lambda _: None) -> T:
    """Do something that begins with a login; again if the target hangs up meanwhile.

    Args:
        do: what is to be done.
        say: told why it is done once more.

    Raises:
        HungUp: the target did so time and again.
    """
    for _ in range(HANG_UPS):
        try:
            return do()
        except HungUp as error:
            say(f"{error.message}; once more")
    return do()


class TargetLab:
    """Makes guests of a target.

    Args:
        address: of the target.
        config: instead of ~/.ssh/config.
        say: told what takes long, before it does.

    Attributes:
        qemu: None: no QEMU of ours runs it.
    """

    qemu: None = None

    def __init__(
        self,
        address: Address,
        *,
        config: Path | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.address = address
        self._config = config
        self._say = say
        self._session: Session | None = None
        self._room = tempfile.TemporaryDirectory(prefix="cpumap-lab-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Log out; nothing is left on the target."""
        if self._session:
            self._session.close()
            self._session = None
        self._room.cleanup()

    def hang_up(self) -> None:
        """Break the connection, as a network does."""
        if self._session:
            self._session.hang_up()

    def kernel(self, _spec: str = "") -> RunningKernel:
        """Return the kernel that the target runs.

        Raises:
            UserError: the login is refused, or the target is no machine for the agent.
            TargetFailed: it cannot be reached.
        """
        return self._running[0]

    def open(self, _spec: str, topology: Topology) -> TargetGuest:
        """Return the target as a guest, in a world that no one has touched.

        Raises:
            NotOnTarget: it is not as `topology` asks.
            UserError, TargetFailed: as `kernel`.
            LabError: whatever else stood in the way.
        """
        kernel, possible, online = self._running
        self._refuse(topology, online)
        return patiently(lambda: self._open(kernel, possible, topology), self._say)

    def _open(self, kernel: RunningKernel, possible: int, topology: Topology) -> TargetGuest:
        session = self._log_in()
        with contextlib.ExitStack() as undo:
            macs = tuple(nic.mac for nic in topology.devices)
            target = Target(session, kernel, cpus=possible, used=topology.cpus, macs=macs)
            undo.callback(target.close)
            guest = TargetGuest.on(target)
            undo.pop_all()
        return guest

    def _refuse(self, topology: Topology, online: int) -> None:
        """See that the target has what is asked for.

        Raises:
            NotOnTarget: it has not.
        """
        for what, is_asked in (
            (f"{topology.cpus} CPUs ({online} are online)", topology.cpus > online),
            ("NUMA nodes to order", topology.nodes > 1),
            ("kernel command line to add to", bool(topology.append)),
            ("CPUs or NICs to be plugged in", topology.spare_cpus or topology.pluggable),
            ("taps behind its NICs", any(topology.taps)),
            ("virtio-net device to configure", not topology.mrg_rxbuf),
        ):
            if is_asked:
                raise NotOnTarget(f"{self.address} has no {what}")

    def _log_in(self) -> Session:
        """Return the session: a new one where the last one's connection broke."""
        if self._session is None or not self._session.alive:
            if self._session:
                self._session.close()
            self._session = None
            self._say(f"logging in to {self.address}")
            self._session = Session(Login.of(self.address, config=self._config))
        return self._session

    @cached_property
    def _running(self) -> tuple[RunningKernel, int, int]:
        """The kernel, the possible CPUs, and those that are online from CPU 0 on."""
        return patiently(self._find_out, self._say)

    def _find_out(self) -> tuple[RunningKernel, int, int]:
        session = self._log_in()
        started = session.start_agent(deadline_s=CALL_S)
        try:
            return self._look(started.link)
        finally:
            if said := session.end_agent(started):
                self._say(said)

    def _look(self, link: Link) -> tuple[RunningKernel, int, int]:
        try:
            banner = _read(link, "/proc/version").strip()
            release = _read(link, "/proc/sys/kernel/osrelease").strip()
            possible = parse_list(_read(link, f"{CPUS}/possible"))
            online = set(parse_list(_read(link, f"{CPUS}/online")))
        except GuestError as error:
            raise TargetFailed(f"{self.address} does not tell what it runs: {error}") from None
        config = self._config_of(link, release)
        kernel = RunningKernel(str(self.address), release, banner, config)
        try:
            kernel.numbers  # noqa: B018
        except ValueError:
            raise KernelNotFound(f"{self.address} runs {banner!r}, which has no version") from None
        first = next(cpu for cpu in range(max(possible) + 2) if cpu not in online)
        return kernel, max(possible) + 1, first

    def _config_of(self, link: Link, release: str) -> Path | None:
        """Return a copy of the kernel's configuration, if the target has it."""
        try:
            packed: bytes = link.call("read", "/proc/config.gz", FILE_BYTES)
            text: bytes | None = gzip.decompress(packed)
        except GuestError as error:
            if error.errno != ENOENT:
                raise
            text = self._log_in().read_file(f"/boot/config-{release}")
        if text is None:
            return None
        path = Path(self._room.name) / "config"
        path.write_bytes(text)
        return path


def _read(link: Link, path: str) -> str:
    content: bytes = link.call("read", path, FILE_BYTES)
    return content.decode()
