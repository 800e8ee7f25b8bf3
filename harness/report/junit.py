"""Runs as JUnit XML: a suite for each scenario, and in it a case for each of its kernels.

As junit-10.xsd of Jenkins' xunit plugin takes it: what is more to tell stands in `system-out`.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from harness.report.record import RunRecord

OUTCOMES = {
    Verdict.FAIL: "failure",
    Verdict.CRASH: "failure",
    Verdict.INVALID: "error",
    Verdict.SKIP: "skipped",
    Verdict.KNOWN: "skipped",
}
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write."""


def write_junit(records: Iterable[RunRecord]) -> str:
    """Return the runs as JUnit XML; those of one scenario stand together already."""
    runs = list(records)
    root = ET.Element("testsuites", {"name": "cpumap-lab", **_count(runs, "skipped")})
    for name, group in groupby(runs, key=attrgetter("name")):
        of_one = list(group)
        suite = ET.SubElement(root, "testsuite", {"name": _clean(name), **_count(of_one)})
        for run in of_one:
            _add_case(suite, run)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _count(runs: Sequence[RunRecord], *but: str) -> dict[str, str]:
    kinds = Counter(OUTCOMES.get(run.verdict) for run in runs)
    counts = {
        "tests": str(len(runs)),
        "failures": str(kinds["failure"]),
        "errors": str(kinds["error"]),
        "skipped": str(kinds["skipped"]),
        "time": f"{sum(run.duration_s for run in runs):.3f}",
    }
    return {name: count for name, count in counts.items() if name not in but}


def _add_case(suite: ET.Element, run: RunRecord) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        name=_clean(run.kernel.spec),
        classname=_clean(f"cpumap-lab.{run.name}"),
        time=f"{run.duration_s:.3f}",
    )
    if outcome := OUTCOMES.get(run.verdict):
        first = run.reasons[0] if run.reasons else ""
        said = ET.SubElement(case, outcome, type=str(run.verdict), message=_clean(first))
        said.text = _clean("\n".join(run.reasons))
    ET.SubElement(case, "system-out").text = _clean("\n".join(_tell(run)))


def _tell(run: RunRecord) -> Iterator[str]:
    yield f"verdict: {run.verdict}"
    if run.kernel.release is not None:
        yield f"kernel: {run.kernel.release}, sha256 {run.kernel.sha256}"
    if run.hang is not None:
        yield f"hang: {run.hang}"
    yield f"seed: {run.seed}"
    for name, frames in (run.ledger or {}).items():
        if frames is not None and name != "balanced" and (frames or name == "injected"):
            yield f"{name}: {frames}"
    if run.artifacts is not None:
        yield f"artifacts: {run.artifacts}"


def _clean(text: str) -> str:
    return ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
