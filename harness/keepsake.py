"""What is kept of a case that did not pass."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harness.casework import LAST_WORDS_S
from harness.errors import LabError
from harness.machine.machine import Machine
from harness.remains import freeze_guest, frozen_room, tell, worth_freezing
from harness.report.files import make_files
from harness.report.record import (
    KernelRecord,
    QemuRecord,
    RunRecord,
    record_cpus,
    record_ledger,
)
from harness.scenario.results import keep_results, name_results

if TYPE_CHECKING:
    from pathlib import Path

    from harness.casework import Casework
    from harness.guest import Guest
    from harness.judge import Judgement
    from harness.report.story import Story
    from harness.target.target import Target


def keep_case(
    case: Casework, name: str, judgement: Judgement, repeat: str, root: Path | None
) -> Path:
    """Keep all that is left of a case and return the directory; its guest is stopped for it.

    Args:
        case: the case.
        name: of it.
        judgement: of it.
        repeat: the command that does it again.
        root: where; None is in the cache.

    Raises:
        CacheError: no space or no permission.
    """
    directory = name_results(name, case.guest.machine.kernel.release, root)
    with frozen_room() as room:
        files = make_files(_tell_case(case, name, judgement, repeat, directory))
        worth = worth_freezing(case.guest, judgement.verdict)
        keep_results(directory, files, freeze_guest(case.guest, room) if worth else {})
    return directory


def _tell_case(
    case: Casework, name: str, judgement: Judgement, repeat: str, directory: Path
) -> Story:
    machine = case.guest.machine
    kernel, hang = machine.kernel, machine.hang
    record = RunRecord(
        name=name,
        verdict=judgement.verdict,
        reasons=judgement.reasons,
        kernel=KernelRecord(kernel.spec, kernel.release, kernel.sha256),
        qemu=_record_qemu(machine),
        ledger=record_ledger(case.books),
        per_cpu=record_cpus(case.books),
        seed=0,
        duration_s=time.monotonic() - case.started,
        artifacts=directory,
        hang=hang.kind.value if hang else None,
    )
    return tell(
        record,
        case.guest,
        case.steered,
        case.books,
        console=case.guest.machine.console.text(),
        dmesg=_hear(case.guest),
        repeat=repeat,
        hang=hang,
    )


def _record_qemu(machine: Machine | Target) -> QemuRecord:
    if not isinstance(machine, Machine):
        return QemuRecord()
    accel, version = machine.recipe.accel, machine.recipe.qemu.version
    return QemuRecord(".".join(map(str, version)), accel.name, machine.threads or None)


def _hear(guest: Guest) -> str:
    """Return the dmesg of a guest that may be dead."""
    try:
        guest.calls.link.call("read", "/proc/uptime", 64, deadline_s=LAST_WORDS_S)
        return guest.dmesg()
    except LabError:
        return ""
