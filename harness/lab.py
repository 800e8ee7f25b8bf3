"""The workshop: from a kernel spec and a topology to a running guest."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.errors import AgentLost, BootFailed, ClockOff, KernelNotFound, QemuFailed, UserError
from harness.guest import DRIVERS, MODULES, PREPARED_BY, Guest, prepare
from harness.images import build_initramfs, lay_out
from harness.kernels import remembered, resolve
from harness.kernels.examine import slowdown, unfit, why_too_many
from harness.landing import take_away
from harness.machine.accel import choose_accel
from harness.machine.machine import Machine, Recipe, is_owned
from harness.machine.qemu import find_qemu
from harness.machine.snapshot import Snapshot, clone, snapshot_of
from harness.paths import built, built_objects, cache_dir
from harness.plug import unplug_cpu
from harness.standing import StandingGuests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.apt import Progress
    from harness.kernels import KernelImage
    from harness.kernels.lock import Lock
    from harness.machine.qemu import Qemu
    from harness.machine.topology import Accel, Topology

BOOTS = 4
"""How often a kernel may boot until it has its clock and its timers right, on a starved host."""


class Lab:
    """Makes guests, each a clone of its kernel's and topology's snapshot.

    Args:
        snapshots: False boots every guest cold instead.
        say: told what takes long, before it does.
        progress: told how downloads go on.
        lock: holds every spec to its very kernel.
    """

    def __init__(
        self,
        *,
        snapshots: bool = True,
        say: Callable[[str], None] = lambda _: None,
        progress: Progress | None = None,
        lock: Lock | None = None,
    ) -> None:
        self.snapshots = snapshots
        self._say = say
        self._progress = progress
        self._lock = lock
        self._kernels: dict[str, KernelImage] = {}
        self._standing = StandingGuests(self._boot_virtme)
        sweep_runs()

    @cached_property
    def qemu(self) -> Qemu:
        """The QEMU in use.

        Raises:
            ToolMissing: there is none.
        """
        return find_qemu()

    @cached_property
    def accel(self) -> Accel:
        """The accelerator in use, and why.

        Raises:
            QemuFailed: QEMU runs nothing here.
        """
        return choose_accel(self.qemu)

    def threads_of(self, topology: Topology) -> str | None:
        """Return how TCG runs the CPUs of such a guest, "multi" or "single"; None under KVM."""
        boots = not self.snapshots or topology.launcher != "qemu"
        return self.accel.threads_for(topology, boots=boots) or None

    def unplugs_cpus(self, topology: Topology) -> bool:
        """Tell whether a guest may have spare CPUs.

        QEMU dies of a CPU's end in a thread that it shares with the others (qemu_thread_join).
        """
        return topology.launcher == "qemu" and self.threads_of(topology) != "single"

    def kernel(self, spec: str) -> KernelImage:
        """Return the kernel that a spec names, fetched if it is not here.

        Raises:
            KernelNotFound: the spec names nothing.
            NotLocked: it names another kernel than the lock, or is not in it.
            FetchFailed, CacheError: it could not be brought.
        """
        if spec not in self._kernels:
            pin = self._lock.pin(spec) if self._lock else None
            self._kernels[spec] = resolve(spec, pin=pin, progress=self._progress)
        return self._kernels[spec]

    def kernel_here(self, spec: str) -> KernelImage | None:
        """Return the kernel that a spec names if it need not be fetched.

        Raises:
            KernelNotFound: the spec cannot be read.
            NotLocked: as `kernel`.
        """
        return remembered(spec, self._lock.pin(spec) if self._lock else None)

    def recipe(self, spec: str, topology: Topology) -> Recipe:
        """Return what a guest is made from.

        Raises:
            KernelNotFound: the spec names nothing, or a kernel that lacks what a guest needs.
            UserError: it takes fewer CPUs.
        """
        kernel = self.kernel(spec)
        if faults := unfit(kernel):
            raise KernelNotFound(
                f"no guest comes up on {spec} ({kernel.release}), which was built without "
                f"{', '.join(faults)}",
                remedy="build it with them (configs/kconfig/minimal.config has all), or give its "
                "modules: deb: and rpm: take several packages, path: takes modules=DIR",
            )
        if reason := why_too_many(kernel, topology.possible_cpus):
            raise UserError(reason, remedy="give the guest fewer CPUs, or build it with more")
        agent, objects = built("agent"), built_objects()
        initramfs = build_initramfs(kernel, agent=agent, objects=objects, modules=MODULES)
        lacking = [name for name in initramfs.missing if name in DRIVERS]
        if lacking and kernel.modules is not None:
            raise KernelNotFound(
                f"{spec} ({kernel.release}) has no {', '.join(lacking)}: neither built in nor as "
                f"modules in {kernel.modules}",
                remedy="build them in, or give all of the kernel's modules: deb: and rpm: take "
                "several packages, path: takes modules=DIR",
            )
        accel = replace(self.accel, pace=self.accel.pace * slowdown(kernel))
        return Recipe(self.qemu, accel, kernel, initramfs, topology)

    def open(self, spec: str, topology: Topology) -> Guest:
        """Return a running guest, pristine.

        Raises:
            BootFailed: the kernel does not come up.
            LabError: whatever else stood in the way.
        """
        recipe = self.recipe(spec, topology)
        if topology.spare_cpus and not self.unplugs_cpus(topology):
            raise UserError(
                "no CPU can be unplugged from a guest that boots cold: QEMU runs all in one thread",
                remedy="leave out --no-snapshot and the launcher",
            )
        if topology.launcher == "virtme-ng":
            return self._standing.lend(recipe)
        if not self.snapshots:
            self._say(f"booting {recipe.kernel.release}")
            return Guest.of(*_boot(Machine(recipe)))
        snapshot = self._snapshot(recipe)
        try:
            return _clone(recipe, snapshot)
        except (QemuFailed, AgentLost, BootFailed):
            # Whatever is wrong with it, a fresh one tells: if that fails too, it is not the cache
            take_away(snapshot.directory)
            return _clone(recipe, self._snapshot(recipe))

    def close(self) -> None:
        """End the guests that stand by."""
        self._standing.close()

    def _boot_virtme(self, recipe: Recipe) -> tuple[Machine, dict[str, Any]]:
        from harness.machine.virtme import VirtmeMachine  # noqa: PLC0415 - few take it

        self._say(f"booting {recipe.kernel.release} by virtme-ng")
        kernel, objects = recipe.kernel, built_objects()

        def fill(room: Path) -> None:
            lay_out(room, kernel, agent=built("agent"), objects=objects, modules=MODULES)

        return _boot(VirtmeMachine(recipe, fill))

    def _snapshot(self, recipe: Recipe) -> Snapshot:
        def prepare_aloud(machine: Machine) -> dict[str, object]:
            self._say(f"freezing {recipe.kernel.release}")
            return prepare(machine)

        for _ in range(BOOTS - 1):
            with contextlib.suppress(ClockOff):  # the next boot is another throw of the dice
                return snapshot_of(recipe, prepare_aloud, salt=PREPARED_BY)
        return snapshot_of(recipe, prepare_aloud, salt=PREPARED_BY)


def _boot(machine: Machine) -> tuple[Machine, dict[str, Any]]:
    with contextlib.ExitStack() as undo:
        undo.enter_context(machine)
        machine.wait_boot()
        with machine.settling():
            prepared = prepare(machine)
        undo.pop_all()
    return machine, prepared


def _clone(recipe: Recipe, snapshot: Snapshot) -> Guest:
    with contextlib.ExitStack() as undo:
        machine = undo.enter_context(clone(recipe, snapshot))
        machine.twin = lambda: clone(recipe, snapshot)
        guest = Guest.of(machine, snapshot.prepared)
        with machine.settling():
            guest.read("/proc/uptime")  # it lives
            for spare in range(recipe.topology.cpus, recipe.topology.possible_cpus):
                unplug_cpu(guest, spare)
        undo.pop_all()
    return guest


def sweep_runs() -> None:
    """Remove the files of runs whose harness was killed."""
    for directory in cache_dir("run").iterdir():
        owner = directory.name.partition("-")[0]
        if not owner.isdigit() or _is_alive(int(owner)):
            continue
        with contextlib.suppress(OSError):  # another sweeps as well
            if not is_owned(directory):
                shutil.rmtree(directory, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
