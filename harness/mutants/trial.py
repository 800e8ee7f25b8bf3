"""Cases on one kernel until one fails, in a process of its own: `python -m harness.mutants.trial`.

pytest keeps modules and what they remember of a kernel; the next one is at the same place.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import LabError
from harness.machine.process import leashed
from harness.matrix.cli import run_pytest
from harness.matrix.plan import Matrix, Row
from harness.matrix.results import Collector
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "trial.json")
        asked = json.dumps(
            {
                "spec": spec,
                "expression": expression,
                "workers": workers or len(os.sched_getaffinity(0)),
                "stop": stop,
                "artifacts": scratch,
                "out": str(out),
            }
        )
        with log.open("wb") as file:
            child = subprocess.Popen(
                leashed([sys.executable, "-m", __name__, asked], os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            try:
                child.wait()
            finally:  # it ends its guests
                if child.poll() is None:
                    child.send_signal(signal.SIGTERM)
                    child.wait()
        if not out.exists():
            raise LabError("the cases could not be run", remedy=f"see {log}")
        told = json.loads(out.read_text())
    if told["error"]:
        raise LabError(told["error"], remedy=f"see {log}")
    return Trial(told["red"], told["unsure"], told["green"])


def main(request: str) -> None:
    """Run cases and write to a file what came of them."""
    asked = json.loads(request)
    more = ["--artifacts", asked["artifacts"]]
    collector = Collector([asked["spec"]])
    error = run_pytest(
        Matrix(kernels=(Row(kernel=asked["spec"]),)),
        collector,
        asked["expression"],
        asked["workers"],
        locked=False,
        more=[*more, "-x"] if asked["stop"] else more,
    )
    results = collector.results()
    red = _reasons(results, RED)
    if collector.interrupted and not (red or _reasons(results, (Verdict.INVALID,))):
        raise KeyboardInterrupt
    told = {
        "error": str(error) if error else None,
        "red": red,
        "unsure": _reasons(results, (Verdict.INVALID,)),
        "green": sum(result.verdict in (Verdict.PASS, Verdict.KNOWN) for result in results),
    }
    Path(asked["out"]).write_text(json.dumps(told))


def _reasons(results: Sequence[Result], verdicts: Sequence[Verdict]) -> dict[str, str]:
    return {
        result.case: result.reason.strip().partition("\n")[0]
        for result in results
        if result.verdict in verdicts
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
