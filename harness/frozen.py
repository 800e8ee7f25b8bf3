"""The guest of a failed run, as `harness.remains` froze it, read and brought back to life."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import KernelNotFound, QemuFailed, ToolMissing, UserError
from harness.machine.command import hardware
from harness.machine.machine import Recipe
from harness.machine.qemu import fetched, unpacked_qemu
from harness.machine.snapshot import thaw
from harness.machine.topology import Topology
from harness.paths import cache_dir
from harness.remains import ABOUT, FORMAT, STATE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.lab import Lab
    from harness.machine.machine import Machine
    from harness.machine.qemu import Qemu

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Frozen:
    """What is known of a guest that was frozen.

    Attributes:
        directory: of the run's results.
        kernel: its spec.
        sha256: of the kernel, in hexadecimal.
        topology: of the guest.
        qemu: version of the QEMU that froze it.
        accelerator: "tcg" or "kvm".
        hardware: the arguments that made its machine; empty if that was not noted yet.
        ended: how it had ended itself; "" if it can run on.
        absent: ids of the devices that were unplugged from it.
    """

    directory: Path
    kernel: str
    sha256: str
    topology: Topology
    qemu: str
    accelerator: str
    hardware: Sequence[str] = ()
    ended: str = ""
    absent: frozenset[str] = frozenset()


def find_results(run: Path) -> Path:
    """Return the directory of a run's results.

    Args:
        run: it, a file in it, or its name below `results` in the cache.

    Raises:
        UserError: there is none.
    """
    for path in (run, cache_dir("results") / run):
        if path.is_dir():
            return path
        if path.is_file():
            return path.parent
    raise UserError(
        f"there is no run {run}",
        remedy="name a directory of results, as `cpumap-lab run` and pytest print it",
    )


def read_frozen(run: Path) -> Frozen:
    """Read what is known of the guest of a failed run.

    Args:
        run: as for `find_results`.

    Raises:
        UserError: no guest was kept of it, or by a newer cpumap-lab.
    """
    directory = find_results(run)
    about, state = directory / ABOUT, directory / STATE
    if not about.is_file() or not state.is_file():
        raise UserError(
            f"no guest was kept of the run {directory}",
            remedy="it is of runs that failed or crashed while their QEMU went on; "
            "`cpumap-lab shell --kernel SPEC` gives a fresh one",
        )
    damaged = UserError(f"{about} is damaged", remedy="do the run again")
    try:
        with about.open("rb") as file:
            told = json.loads(file.read(MAX_BYTES))
        version = told.get("format", 1)
    except OSError as error:
        raise UserError(f"cannot read {about}: {error.strerror}") from None
    except (ValueError, AttributeError, RecursionError):
        raise damaged from None
    if not isinstance(version, int):
        raise damaged
    if version > FORMAT:
        raise UserError(
            f"{about} was written by a newer cpumap-lab (format {version}, not {FORMAT})",
            remedy="resume it with that one",
        )
    try:
        return _understand(directory, told)
    except (KeyError, TypeError, ValueError):
        raise damaged from None


def _understand(directory: Path, told: dict[str, Any]) -> Frozen:
    words = [told[key] for key in ("kernel", "sha256", "qemu", "accelerator")]
    if not all(isinstance(word, str) for word in words):
        raise TypeError
    kernel, sha256, qemu, accelerator = words
    shape, made = dict(told["topology"]), told.get("hardware", [])
    ended, absent = told.get("ended", ""), told.get("absent", [])
    if not isinstance(made, list) or not isinstance(ended, str) or not isinstance(absent, list):
        raise TypeError
    shape["taps"] = tuple(shape.get("taps", ()))
    topology, unplugged = Topology(**shape), frozenset(map(str, absent))
    return Frozen(
        directory, kernel, sha256, topology, qemu, accelerator, made, ended, absent=unplugged
    )


def resume(frozen: Frozen, lab: Lab) -> Machine:
    """Return a running copy of a frozen guest, just as it was; what is kept of it stays untouched.

    One that had ended itself does not run: its memory and its CPUs are there to be looked at.

    Raises:
        UserError: it cannot run here any more: another kernel, QEMU, accelerator or machine.
        QemuFailed: its state is damaged.
    """
    recipe = _recipe(frozen, lab)
    try:
        machine = thaw(recipe, frozen.directory / STATE)
    except QemuFailed as error:
        raise QemuFailed(
            f"the guest in {frozen.directory / STATE} cannot be resumed: {error.message}",
            remedy="its file may be damaged; do the run again",
        ) from error
    if frozen.ended:
        machine.end(frozen.ended)
    return machine


def _recipe(frozen: Frozen, lab: Lab) -> Recipe:
    """Return what the guest is resumed with: only what it sees of it has to be as it was."""
    again = "do the run again (`repeat.txt` in it says how)"
    try:
        kernel = lab.kernel(frozen.kernel)
    except KernelNotFound as error:
        raise UserError(
            f"the run's kernel, {frozen.kernel}, is gone: {error.message}", remedy=again
        ) from error
    if kernel.sha256 != frozen.sha256:
        raise UserError(
            f"the run's kernel is gone: {frozen.kernel} was {frozen.sha256[:12]} and is "
            f"{kernel.sha256[:12]} now",
            remedy=again,
        )
    here = lab.recipe(frozen.kernel, frozen.topology)
    parts = (here.accel, here.kernel, here.initramfs, here.topology)
    recipe = Recipe(_qemu(frozen, lab), *parts, frozen.absent)
    if here.accel.name != frozen.accelerator:
        raise UserError(
            f"the run's guest ran under {frozen.accelerator}, and this machine has "
            f"{here.accel.name}: {here.accel.why}",
            remedy="resume it where it ran",
        )
    if frozen.hardware and list(frozen.hardware) != hardware(frozen.topology, here.accel.cpu):
        raise UserError(
            "the run's guest had another hardware than this cpumap-lab makes", remedy=again
        )
    return recipe


def _qemu(frozen: Frozen, lab: Lab) -> Qemu:
    """Return a QEMU of the version that froze the guest."""
    if _version(lab.qemu) == frozen.qemu:
        return lab.qemu
    for root in fetched():
        try:
            other = unpacked_qemu(root)
        except ToolMissing:
            continue
        if _version(other) == frozen.qemu:
            return other
    raise UserError(
        f"the run's guest was frozen by QEMU {frozen.qemu}, and this is {_version(lab.qemu)}",
        remedy=f"set CPUMAP_LAB_QEMU to a {frozen.qemu}, or do the run again",
    )


def _version(qemu: Qemu) -> str:
    return ".".join(map(str, qemu.version))
