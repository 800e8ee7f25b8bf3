"""What one run on one kernel showed, and when that is the lab's own fault."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import (
    BootFailed,
    CacheError,
    ClockOff,
    FetchFailed,
    LabError,
    QemuFailed,
    ToolMissing,
)
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ABORT_STATUS = 129
"""Of a step whose verdict would be worth nothing: from 128 on `git bisect run` stops."""
FAULTS = (ToolMissing, QemuFailed, CacheError, FetchFailed, ClockOff)
"""What no kernel can cause: the lab is at fault, or its machine."""


class LabBroken(LabError):
    """The lab cannot judge any kernel: a bisection has to stop, not to skip."""

    exit_status = ABORT_STATUS


@dataclass(frozen=True, slots=True)
class Sight:
    """What a run showed.

    Attributes:
        shown: whether the failure (or the signature) showed itself; None without a verdict.
        verdict: of the run.
        why: the reason, in one line; "" if it passed.
        seconds: that it took.
        artifacts: the directory of its results; None when nothing was kept.
    """

    shown: bool | None
    verdict: str
    why: str = ""
    seconds: float = 0.0
    artifacts: Path | None = None


def show_of(
    verdict: Verdict, error: type[LabError] | None, why: str, signature_seen: bool | None
) -> bool | None:
    """Say what a verdict is worth to a bisection.

    Args:
        verdict: of the run.
        error: what ended it, if an error did.
        why: what it said.
        signature_seen: whether the signature was on the console; None if there is no signature.

    Returns:
        Whether the failure showed itself; None: this kernel cannot be judged.

    Raises:
        LabBroken: no kernel could have been judged.
    """
    if signature_seen:
        return True
    if error is not None and issubclass(error, FAULTS):
        raise LabBroken(f"the lab is at fault, not the kernel: {why}")
    if error is BootFailed or verdict in (Verdict.SKIP, Verdict.INVALID):
        return None
    if signature_seen is None:
        return verdict in (Verdict.FAIL, Verdict.CRASH)
    return None if verdict is Verdict.CRASH else False  # another crash may have come before it


def worst(sights: Sequence[Sight]) -> Sight:
    """Return what several runs on one kernel show together.

    What shows the failure counts first, then what has no verdict for the lab's sake; what this
    kernel has not got says nothing if there is more.
    """

    def rank(sight: Sight) -> int:
        if sight.shown is None:
            return 3 if sight.verdict == Verdict.SKIP else 1
        return 0 if sight.shown else 2

    return replace(min(sights, key=rank), seconds=sum(each.seconds for each in sights))
