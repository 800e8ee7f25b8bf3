"""Cases on one kernel until one fails: `python -m harness.mutants.trial`."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.apart import answer_apart, ask_apart
from harness.errors import LabError
from harness.matrix.cli import run_pytest
from harness.matrix.plan import Matrix, Row
from harness.matrix.results import Collector
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.matrix.results import Result

RED = (Verdict.FAIL, Verdict.CRASH)


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of the cases on one kernel.

    Attributes:
        red: those that failed or crashed, with the first line of the reason.
        unsure: those without a verdict, likewise.
        green: how many passed, or failed as it is known.
    """

    red: dict[str, str]
    unsure: dict[str, str]
    green: int


def run_trial(
    spec: str, expression: str | None, workers: int | None, log: Path, *, stop: bool
) -> Trial:
    """Run cases on a kernel.

    Args:
        spec: the kernel.
        expression: pytest's -k; None: all cases.
        workers: guests at once; None: one per core.
        log: takes what pytest says.
        stop: at the first that fails.

    Raises:
        LabError: no case was run, and why.
    """
    request = {
        "spec": spec,
        "expression": expression,
        "workers": workers or len(os.sched_getaffinity(0)),
        "stop": stop,
    }
    with log.open("wb") as said:
        told = ask_apart(__name__, request, said)
    if told is None:
        raise LabError("the cases could not be run", remedy=f"see {log}")
    if told["error"]:
        raise LabError(told["error"], remedy=f"see {log}")
    return Trial(told["red"], told["unsure"], told["green"])


def answer(asked: dict[str, Any]) -> dict[str, Any] | None:
    """Run cases and return what came of them; None if they were interrupted."""
    collector = Collector([asked["spec"]])
    with tempfile.TemporaryDirectory() as scratch:
        more = ["--artifacts", scratch]
        error = run_pytest(
            Matrix(kernels=(Row(kernel=asked["spec"]),)),
            collector,
            asked["expression"],
            asked["workers"],
            locked=False,
            more=[*more, "-x"] if asked["stop"] else more,
        )
    results = collector.results()
    red, unsure = _reasons(results, RED), _reasons(results, (Verdict.INVALID,))
    if collector.interrupted and not (red or unsure):
        return None
    return {
        "error": str(error) if error else None,
        "red": red,
        "unsure": unsure,
        "green": sum(result.verdict in (Verdict.PASS, Verdict.KNOWN) for result in results),
    }


def _reasons(results: Sequence[Result], verdicts: Sequence[Verdict]) -> dict[str, str]:
    return {
        result.case: result.reason.strip().partition("\n")[0]
        for result in results
        if result.verdict in verdicts
    }


if __name__ == "__main__":
    answer_apart(answer)
