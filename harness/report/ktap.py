"""Runs as KTAP: a test for each scenario, and in it a subtest for each of its kernels.

Source: Documentation/dev-tools/ktap.rst; what reads it is tools/testing/kunit/kunit_parser.py.
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from harness.report.record import RunRecord

VERSION = "KTAP version 1"
INDENT = "  "
BAD = (Verdict.CRASH, Verdict.FAIL, Verdict.INVALID)
DIRECTIVES = {Verdict.SKIP: "SKIP", Verdict.INVALID: "ERROR", Verdict.KNOWN: "XFAIL"}


def write_ktap(records: Iterable[RunRecord]) -> str:
    """Return the runs as KTAP; those of one scenario stand together already."""
    scenarios = [list(runs) for _, runs in groupby(records, key=attrgetter("name"))]
    lines = [VERSION, f"1..{len(scenarios)}"]
    for number, runs in enumerate(scenarios, 1):
        lines += [f"{INDENT}{line}" for line in _write_subtests(runs)]
        lines.append(_result(number, runs[0].name, *_bubble_up(runs)))
    text = "".join(f"{line}\n" for line in lines)
    return text.encode("utf-8", "replace").decode()


def _write_subtests(runs: Sequence[RunRecord]) -> Iterator[str]:
    yield VERSION
    yield f"# Subtest: {_word(runs[0].name)}"
    yield f"1..{len(runs)}"
    for number, run in enumerate(runs, 1):
        release = run.kernel.release
        name = run.kernel.spec if release is None else f"{run.kernel.spec} ({release})"
        if run.verdict in BAD:
            lines = [line for reason in run.reasons for line in reason.splitlines()]
            yield from (f"# {line}" for line in lines)
            if run.artifacts is not None:
                yield f"# artifacts: {run.artifacts}"
        yield _result(number, name, run.verdict, " ".join(run.reasons[:1]))


def _bubble_up(runs: Sequence[RunRecord]) -> tuple[Verdict, str]:
    """Return the verdict on a scenario: the worst of its runs; skipped if all of them are."""
    verdicts = {run.verdict for run in runs}
    for verdict in (*BAD, Verdict.PASS, Verdict.KNOWN):
        if verdict in verdicts:
            return verdict, ""
    return Verdict.SKIP, "on every kernel"


def _result(number: int, name: str, verdict: Verdict, why: str) -> str:
    why = " ".join(why.split())
    result = f"{'not ok' if verdict in BAD else 'ok'} {number} {_word(name)}"
    directive = DIRECTIVES.get(verdict)
    return f"{result} # {directive} {why}".rstrip() if directive else result


def _word(name: str) -> str:
    """Return a description: it may hold neither a hash sign nor the end of a line."""
    plain = "".join(c if c.isprintable() else " " for c in name.replace("#", ""))
    return " ".join(plain.split()) or "unnamed"
