"""What came out of the cases, taken from pytest's own reports, whichever worker ran them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.case_id import split_id
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pytest


@dataclass(frozen=True, slots=True)
class Result:
    """How one case ended on one kernel.

    Attributes:
        case: its pytest id without the kernel.
        kernel: the kernel's spec; None for a test that takes no guest.
        verdict: how it ended.
        reason: why it did not pass; "" when it did.
        duration_s: of its set-up, itself and its end, in seconds.
        artifacts: directory of what was kept of it; None when nothing was.
        again: why it was run once more; None when it was not.
    """

    case: str
    kernel: str | None
    verdict: Verdict
    reason: str
    duration_s: float
    artifacts: str | None = None
    again: str | None = None


@dataclass(eq=False)
class Collector:
    """A pytest plugin that keeps what the reports say.

    Args:
        specs: the kernels that are run.

    Attributes:
        faults: files that pytest could not read cases from, and why.
        interrupted: somebody stopped the run.
    """

    specs: Sequence[str]
    faults: list[str] = field(default_factory=list)
    interrupted: bool = False
    _reports: dict[str, list[pytest.TestReport]] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report: each case has one of its set-up, one of itself, one of its end."""
        self._reports.setdefault(report.nodeid, []).append(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep why a file of cases could not be read."""
        if report.failed:
            self.faults.append(f"{report.nodeid}: {report.longreprtext}")

    def pytest_keyboard_interrupt(self) -> None:
        """Note that the run was not carried through (pytest ends on `faults` like this, too)."""
        self.interrupted = not self.faults

    def results(self) -> list[Result]:
        """Return how the cases ended that came to an end, in the order in which they began."""
        return [
            self._result(nodeid, reports)
            for nodeid, reports in self._reports.items()
            if any(report.when == "teardown" or not report.passed for report in reports)
        ]

    def _result(self, nodeid: str, reports: Sequence[pytest.TestReport]) -> Result:
        told = {name: str(of) for report in reports for name, of in report.user_properties}
        own = [told["kernel"]] if "kernel" in told else []  # a scenario may name its own
        case, kernel = split_id(nodeid, own or self.specs)
        verdict, reason = worst(map(judge_report, reports))
        duration_s = sum(report.duration for report in reports)
        kernel = own[0] if own else kernel
        kept, again = told.get("artifacts"), told.get("again")
        return Result(case, kernel, verdict, reason, duration_s, kept, again)


ORDER = (
    Verdict.CRASH,
    Verdict.FAIL,
    Verdict.INVALID,
    Verdict.KNOWN,
    Verdict.SKIP,
    Verdict.PASS,
)
"""What counts, if a case has several verdicts."""


def worst(verdicts: Iterable[tuple[Verdict, str]]) -> tuple[Verdict, str]:
    """Return the verdict that counts, with its reason."""
    return min(verdicts, key=lambda told: ORDER.index(told[0]))


def judge_report(report: pytest.TestReport) -> tuple[Verdict, str]:
    """Return the verdict and the reason in a report of pytest's."""
    told = dict(report.user_properties).get("verdict")
    if report.passed:
        return Verdict.PASS, ""
    if report.skipped:
        reason: Any = getattr(report, "wasxfail", None) or report.longrepr
        if isinstance(reason, tuple):
            reason = reason[2]
        known = hasattr(report, "wasxfail")
        for prefix in ("reason: ", "Skipped: "):
            reason = str(reason).removeprefix(prefix)
        return Verdict.KNOWN if known else Verdict.SKIP, reason
    # The lab itself has judged, or else the case failed, or what is around it broke
    by_phase = Verdict.FAIL if report.when == "call" else Verdict.INVALID
    verdict = Verdict(str(told)) if told and report.when != "teardown" else by_phase
    return verdict, failure_of(report)


def failure_of(report: pytest.TestReport) -> str:
    """Return why a case failed, without the traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text: str = crash.message if crash else str(report.longrepr)
    return re.sub(r"^verdict: \w+\n", "", text).strip() or "no reason is told"
