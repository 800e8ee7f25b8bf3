"""From what was seen to one verdict, with its reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import BootFailed, LabError, NotOnTarget, UserError
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.machine.hang.findings import Hang
    from harness.machine.splats import Splat
    from harness.trace.books import Books

LATE_INT3 = re.compile(r"oops: (Oops: )?int3: ")
EMULATORS_FAULT = (
    "QEMU ran an int3 that the kernel had taken out again, as TCG does now and then with a thread "
    "for each virtual CPU: a fault of the emulator's"
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and why.

    Attributes:
        verdict: how it ended.
        reasons: empty for a pass.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def why_again(reasons: Sequence[str]) -> str:
    """Return why a run that ended for these reasons is made once more; "" if it is not."""
    return f"{reasons[0]}: {EMULATORS_FAULT}" if EMULATORS_FAULT in reasons else ""


def judge(
    books: Iterable[Books], splats: Sequence[Splat], failures: Sequence[str] = ()
) -> Judgement:
    """Return the verdict on a run that was carried through.

    Args:
        books: closed, of every steering in the run.
        splats: what the kernel said of being broken; any makes it a crash.
        failures: expectations that were not met.
    """
    closed = list(books)
    if splats:
        return Judgement(Verdict.CRASH, tuple(f"{splat.kind}: {splat.title}" for splat in splats))
    if lost := sum(book.lost_events for book in closed):
        reason = f"{lost} trace events were lost: the books prove nothing"
        return Judgement(Verdict.INVALID, (reason, *failures))
    told = (*failures, *(reason for book in closed for reason in book.reasons))
    if any(book.verdict is Verdict.INVALID for book in closed):
        return Judgement(Verdict.INVALID, told)
    if told or any(book.verdict is not Verdict.PASS for book in closed):
        return Judgement(Verdict.FAIL, told)
    return Judgement(Verdict.PASS)


def judge_error(error: LabError, splats: Sequence[Splat]) -> Judgement:
    """Return the verdict on a run that an error ended.

    A kernel that says it is broken has crashed, whatever the harness stumbled over first; one that
    keeps the lab waiting in cpumap.c has failed.

    Raises:
        UserError: passed on: a wrong request is no verdict on a kernel.
    """
    if isinstance(error, UserError):
        raise error
    if isinstance(error, NotOnTarget):
        return Judgement(Verdict.SKIP, (str(error),))
    reasons = [f"{splat.kind}: {splat.title}" for splat in splats]
    if splats or (isinstance(error, BootFailed) and error.crashed):
        return Judgement(Verdict.CRASH, (*reasons, str(error)))
    kept = error.hang is not None and error.hang.in_cpumap
    return Judgement(Verdict.FAIL if kept else Verdict.INVALID, (str(error),))


def tell_hang(judgement: Judgement, hang: Hang | None) -> Judgement:
    """Return the judgement with the reason why the guest kept the lab waiting, if it did.

    What failed for want of time, on a host that did not let the guest run, proves nothing.
    """
    if hang is None or judgement.verdict is Verdict.PASS:
        return judgement
    if judgement.verdict is Verdict.FAIL and not hang.kind.in_guest:
        judgement = replace(judgement, verdict=Verdict.INVALID)
    if any(hang.summary in reason for reason in judgement.reasons):
        return judgement
    return replace(judgement, reasons=(*judgement.reasons, hang.summary))


def tell_emulator(judgement: Judgement, threads: str, *, again: bool = False) -> Judgement:
    """Return the judgement, which is none on a kernel that died of the emulator.

    A kernel that patches its code puts an int3 there meanwhile (text_poke_bp_batch,
    smp_text_poke_batch_finish since 6.16); see `harness.machine.topology.Accel.threads_for`.
    It is one run of thousands: one that dies so when it is made again dies of its kernel.

    Args:
        judgement: on a run.
        threads: how TCG ran the guest, "multi" or "single"; "" if it did not.
        again: the run was made before, and was laid to the emulator.
    """
    late = judgement.verdict is Verdict.CRASH and LATE_INT3.match(judgement.reasons[0])
    if not late or threads != "multi" or again:
        return judgement
    return Judgement(Verdict.INVALID, (*judgement.reasons, EMULATORS_FAULT))
