"""One QEMU and what the harness holds of it: console, monitor, agent link, NIC sockets."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pexpect

from harness.agent.link import Link
from harness.errors import BootFailed, CacheError, LabError, QemuFailed, QemuSilent, ToolMissing
from harness.landing import cache_errors
from harness.machine import command
from harness.machine.console import Console
from harness.machine.hang.examine import examine
from harness.machine.hang.findings import Kind
from harness.machine.monitor import Monitor
from harness.machine.nic import hang_up, open_wire
from harness.machine.process import Process
from harness.machine.splats import Splat, find_splats
from harness.machine.watcher import PANICKED, Watcher
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.images import Initramfs
    from harness.kernels import KernelImage
    from harness.machine.hang.findings import Hang
    from harness.machine.qemu import Qemu
    from harness.machine.topology import Accel, Topology

PHASES: tuple[tuple[str, str, float], ...] = (
    ("firmware", r"SeaBIOS|Booting", 20.0),
    ("kernel", r"Linux version", 60.0),
    ("init", r"cpumap-lab: init", 120.0),
    ("agent", r"cpumap-lab: agent ready", 60.0),
)
"""Each phase of a boot: what shows that it was reached, and its deadline in seconds at pace 1."""
REMEDIES = {
    "none": "see `cpumap-lab qemu show`: is it a whole QEMU? Unset CPUMAP_LAB_QEMU if it is set",
    "firmware": "is it a kernel for x86-64 that is whole? Build or copy it again",
    "kernel": "check what was added to its command line; the console tells how far it came",
    "init": "check that the kernel has the drivers built in or as modules beside it "
    "(virtio_pci, virtio_console, virtio_net), and what was added to its command line",
    "agent": "the console tells what the agent stumbled over",
    "died": "the kernel tells why; check what was added to its command line",
}
"""What to do about a boot that failed, by the last phase reached."""
LAST_BREATH_S = 0.5
"""What QEMU may take to end after it has closed its monitor."""
LAST_WORDS_S = 5.0
"""What a kernel that panics may take to end after it has said so."""
HELLO_S = 30.0
CALL_S = 60.0
MONITOR_S = 60.0
NODES_SINCE = (8, 2, 0)
"""QEMU from which on the nodes' memory can lie in one file (memory-backend-file, offset=)."""
DEATH = r"Kernel panic - not syncing|end Kernel panic"


@dataclass(frozen=True)
class Recipe:
    """All that decides how a guest looks once it is up.

    Attributes:
        absent: ids of the devices that are not plugged in when QEMU starts; not of a template.
    """

    qemu: Qemu
    accel: Accel
    kernel: KernelImage
    initramfs: Initramfs
    topology: Topology
    absent: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.topology.nodes > 1 and self.qemu.version < NODES_SINCE:
            raise ToolMissing(
                f"a guest of {self.topology.nodes} NUMA nodes takes QEMU "
                f"{'.'.join(map(str, NODES_SINCE))}, and this is {self.qemu.version_string}",
                remedy="`cpumap-lab qemu fetch` brings the newest that Debian offers",
            )

    def arguments(self) -> list[str]:
        """Return the part of QEMU's command line that template and clone share."""
        machine = command.hardware(self.topology, self.accel.cpu, self.absent)
        hz = kernel_hz(self.kernel.config)
        boot = command.kernel(self.kernel.boot, self.initramfs.path, self.topology, hz)
        return [*machine, *boot]

    def digest(self) -> str:
        """Return a SHA-256 over all that went in, file contents instead of their paths."""
        machine = command.hardware(self.topology, self.accel.cpu)
        append = command.kernel(Path(), Path(), self.topology, kernel_hz(self.kernel.config))
        parts = {
            "qemu": [self.qemu.sha256, self.qemu.version_string],
            "kernel": [self.kernel.sha256, self.kernel.boot.name],
            "initramfs": self.initramfs.digest,
            "arguments": [self.accel.name, *machine, *append],
            "cpu": host_cpu() if self.accel.cpu == "host" else self.accel.cpu,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def own(directory: Path) -> int:
    """Keep others from sweeping a directory away, until the descriptor returned is closed."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def is_owned(directory: Path) -> bool:
    """Tell whether a running harness owns a directory, be it in another container."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def host_cpu() -> str:
    """Return what tells this machine's CPU from another: its model and its features."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags")
    return "\n".join(line for line in first.splitlines() if line.startswith(wanted))


def kernel_hz(config: Path | None) -> int | None:
    """Return CONFIG_HZ of a kernel's configuration; None when it is not known."""
    if config is None:
        return None
    for line in config.read_text().splitlines():
        if line.startswith("CONFIG_HZ="):
            return int(line.removeprefix("CONFIG_HZ="))
    return None


class Machine:
    """A QEMU process with its ends held; close it, or leave its `with` block.

    Args:
        recipe: what to start.
        ram: file behind the guest's RAM (made if it does not exist).
        share_ram: write the guest's RAM to that file; else changes stay private.
        incoming: wait for a saved state instead of booting.

    Attributes:
        threads: how TCG runs its CPUs, "multi" or "single"; "" under KVM.
        twin: makes another guest with the same kernel at the same addresses, if one can be made.
        hang: why the guest kept the lab waiting, if it did.
        examined: whether that was looked into; it is once.
        ended: how the guest has ended itself, if it did; QEMU keeps it as it was.
        absent: ids of what is not plugged in just now (`harness.machine.plug`).
        cpus_plugged: how many CPUs were plugged in so far.

    Raises:
        QemuFailed: QEMU cannot be started.
    """

    freezes = True
    """Whether it can be kept as it is at a moment."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        ram: Path | None = None,
        share_ram: bool = False,
        incoming: bool = False,
    ) -> None:
        self.recipe = recipe
        self.threads = recipe.accel.threads_for(recipe.topology, boots=not incoming)
        self.twin: Callable[[], Machine] | None = None
        self.hang: Hang | None = None
        self.examined = False
        self.ended = ""
        self.absent = set(recipe.absent)
        self.cpus_plugged = 0
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as handed:
            runs = cache_dir("run")
            with cache_errors(str(runs)):
                self.directory = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=runs))
            undo.callback(shutil.rmtree, self.directory, ignore_errors=True)
            undo.callback(os.close, own(self.directory))
            ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
            for end in ours:
                undo.callback(end.close)
            for end in theirs:
                handed.callback(end.close)
            wires = []
            for nic in recipe.topology.devices:
                wires.append(open_wire(nic))
                undo.callback(wires[-1][0].close)
                for fd in wires[-1][1]:
                    handed.callback(os.close, fd)
            self.nics = tuple(end for end, _ in wires)
            self._ram = ram or self.directory / "ram"
            wiring = command.Wiring(
                agent=theirs[0].fileno(),
                qmp=theirs[1].fileno(),
                watch=theirs[2].fileno(),
                nics=tuple(fds for _, fds in wires),
                console=self.directory / "console.log",
                firmware=self.directory / "firmware.log",
                ram=self._ram,
            )
            wiring.console.touch()
            wiring.firmware.touch()
            self.process = self._start(wiring, share_ram=share_ram, incoming=incoming)
            undo.callback(self.process.kill)
            self.console = Console(wiring.console, self.runs)
            self._firmware = Console(wiring.firmware, self.runs)
            self.monitor = Monitor(ours[1], deadline_s=MONITOR_S * recipe.accel.pace)
            undo.callback(self.monitor.close)
            deadline_s = CALL_S * recipe.accel.pace
            self.link = Link(
                ours[0],
                deadline_s=deadline_s,
                examine=self.examine,
                gone=lambda: self.ended or "QEMU has gone",
            )
            undo.callback(Watcher(ours[2], self.end).close)
            self._undo = undo.pop_all()

    @property
    def kernel(self) -> KernelImage:
        """The kernel that it runs."""
        return self.recipe.kernel

    @property
    def initramfs(self) -> str:
        """Digest of the initramfs that it booted with."""
        return self.recipe.initramfs.digest

    @property
    def cpus(self) -> int:
        """Number of the CPUs that it may have, its spares among them."""
        return self.recipe.topology.possible_cpus

    @property
    def macs(self) -> tuple[str, ...]:
        """Hardware addresses of its NICs."""
        return tuple(nic.mac for nic in self.recipe.topology.devices)

    @property
    def pace(self) -> float:
        """How much slower than usual it is: deadlines are that much longer."""
        return self.recipe.accel.pace

    def _start(self, wiring: command.Wiring, *, share_ram: bool, incoming: bool) -> Process:
        recipe = self.recipe
        if recipe.topology.nodes > 1 and not incoming:
            self._make_ram()
        self.argv = [
            str(recipe.qemu.binary),
            *recipe.qemu.args,
            "-accel",
            recipe.accel.argument_for(recipe.topology, boots=not incoming),
            *recipe.arguments(),
            *command.backends(recipe.topology, wiring, share_ram=share_ram),
            *(["-incoming", "defer"] if incoming else []),
        ]
        log = self.directory / "qemu.log"
        return Process(self.argv, env=recipe.qemu.env, pass_fds=wiring.fds, log=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listen(self, seconds: float) -> None:
        """Give the console a moment to print a report to its end."""
        self.console.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=seconds)

    def close(self) -> None:
        """End QEMU and remove its files."""
        self.console.close()
        self._firmware.close()
        self.link.close()
        self._undo.close()

    def runs(self) -> bool:
        """Tell whether the guest may go on: QEMU is there, and it has not ended itself."""
        return self.process.alive() and not self.ended

    def end(self, how: str) -> None:
        """Have everybody who waits for the guest learn at once that it has ended itself.

        Args:
            how: it did.
        """
        if any(splat.kind == "panic" for splat in self.splats()):
            how = PANICKED
        self.ended = self.ended or how
        self.link.hang_up()
        for nic in self.nics:
            hang_up(nic)

    def wait_boot(self) -> None:
        """Wait until the agent answers, phase by phase.

        Raises:
            BootFailed: a phase missed its deadline, the kernel died, or QEMU ended; it names the
                last phase reached and shows the console's tail.
        """
        reached = "none"
        for phase, pattern, seconds in PHASES:
            source = self._firmware if phase == "firmware" else self.console
            deadline = seconds * self.recipe.accel.pace
            try:
                found = source.expect([pattern, DEATH], timeout=deadline)
            except pexpect.TIMEOUT:
                what = f"{phase} was not reached within {deadline:.0f} s"
                self.examine(what, booting=True)
                self._boot_failed(reached, what)
            except pexpect.EOF:
                why = self.ended or self.process.failure()
                self._boot_failed(reached, f"it ended before {phase} was reached ({why})")
            if found == 1:
                self.console.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=LAST_WORDS_S)
                self._boot_failed(reached, "the kernel died")
            reached = phase
        try:
            self.link.call("read", "/proc/version", 4096, deadline_s=HELLO_S)
        except LabError as error:
            self._boot_failed(reached, error.message)

    @contextlib.contextmanager
    def settling(self) -> Iterator[None]:
        """While a `with` block makes the booted guest ready: a kernel that dies of it did not boot.

        Raises:
            BootFailed: it has died, whatever the lab stumbled over first.
        """
        try:
            yield
        except LabError as error:
            if self.splats():
                self._boot_failed("agent", error.message)
            raise
        if self.ended:
            self._boot_failed("agent", self.ended)

    def _make_ram(self) -> None:
        """Make the file that the nodes share: QEMU sizes one for the first node only."""
        with cache_errors(str(self._ram)), self._ram.open("wb") as file:
            file.truncate(self.recipe.topology.memory_mib << 20)

    def _boot_failed(self, phase: str, what: str) -> None:
        if error := self.no_room():
            raise error
        text = self.console.text()
        splats = find_splats(text)
        tail = self.console.tail() or "(nothing)"
        headline = f" The kernel said: {splats[0].title}." if splats else ""
        output = self.process.output()
        said = f"\nQEMU said: {output}" if output else ""
        raise BootFailed(
            f"{self.recipe.kernel.spec} did not boot: {what}; the last phase reached is "
            f"{phase!r}.{headline}{said}\nThe console's tail:\n{tail}",
            phase=phase,
            console=text,
            crashed=bool(splats),
            remedy=REMEDIES["died" if splats else phase],
            hang=self.hang,
        )

    def examine(self, waited_for: str, *, booting: bool = False) -> Hang | None:
        """Return why the guest keeps the lab waiting; it is found out the first time.

        One that has ended itself keeps nobody waiting; a QEMU may still end after the first time.

        Args:
            waited_for: what the lab gave up waiting for.
            booting: whether the guest has no agent yet.
        """
        if self.ended:
            return self.hang
        has_died = (
            self.hang is not None
            and self.hang.kind is not Kind.QEMU_DEAD
            and self.process.wait(LAST_BREATH_S) is not None
        )
        if has_died or not self.examined:
            self.examined = True
            self.hang = examine(self, waited_for, booting=booting)
        return self.hang

    def qmp(self, name: str, /, **arguments: Any) -> Any:
        """Run a QMP command and return its result.

        Raises:
            QemuSilent: QEMU does not answer.
            QemuFailed: QEMU refused the command or has gone.
        """
        try:
            return self.monitor.command(name, arguments)
        except QemuSilent as error:
            error.hang = self.examine(error.message)
            raise
        except QemuFailed as error:
            if self.process.wait(LAST_BREATH_S) is None:
                raise
            raise QemuFailed(f"{error.message}; {self.process.failure()}") from error

    def no_room(self) -> CacheError | None:
        """Return an error if QEMU died because there is no room for the file behind its RAM.

        A full disk is a SIGBUS to who writes to such memory, and a limit a SIGXFSZ.
        """
        if self.process.wait(0) not in (-signal.SIGBUS, -signal.SIGXFSZ):
            return None
        return CacheError(
            f"no room for the guest's memory ({self.recipe.topology.memory_mib} MiB) in "
            f"{self._ram.parent}",
            remedy="free some space (`cpumap-lab snapshots prune`, `cpumap-lab kernels prune`), "
            "or point CPUMAP_LAB_CACHE to a larger disk",
        )

    def splats(self) -> list[Splat]:
        """Return what the console shows of a broken kernel."""
        return find_splats(self.console.text())
