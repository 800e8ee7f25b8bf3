"""The table of the contract: every claim of every case, collected by pytest itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pytest

from harness.contract.claims import Claim, claims_of, options_wanted, show
from harness.contract.functions import FUNCTIONS
from harness.errors import UserError
from harness.kernels.kconfig import debug_names, own_fragments
from harness.kernels.spec import DebianSpec, parse_spec
from harness.known_issues import FILE as KNOWN_ISSUES
from harness.known_issues import load_known_issues
from harness.matrix.plan import FILE as MATRIX
from harness.matrix.plan import load_matrix
from harness.paths import REPO

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.known_issues import KnownIssue

CASES = REPO / "cases"
OLDEST = (5, 10)
RT = "PREEMPT_RT"
"""The option of Debian's flavour `-rt`, and of no other."""
NEWEST_STABLE = 9999
"""A series is judged as its newest release: it has all that was ever backported to it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A behaviour of a function.

    Attributes:
        function: of cpumap.c.
        behaviour: what it does.
        since: first version that does so, "5.10" for all.
        until: first version that does so no longer, None if all later ones do.
        kernels: those of the matrix that do so.
        known: those that should, and are known not to (configs/known-issues.yaml).
        cases: node ids of the cases that prove it, without parameters.
        options: what a kernel must be built with to prove it, if none of the matrix is.
    """

    function: str
    behaviour: str
    since: str
    until: str | None
    kernels: tuple[str, ...]
    known: tuple[str, ...]
    cases: tuple[str, ...]
    options: tuple[str, ...] = ()


class _Collector:
    """Listens to a collection of pytest's."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []
        self.errors: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(report.longreprtext)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = session.items


def collect_cases() -> list[pytest.Item]:
    """Return the cases as pytest collects them; no guest is booted.

    Raises:
        UserError: a case cannot be imported.
    """
    collector = _Collector()
    quiet = ["--collect-only", "-p", "no:terminal", "-p", "no:cacheprovider"]
    where = [f"--rootdir={REPO}", str(CASES)]
    status = pytest.main([*quiet, *where], plugins=[collector])
    if status != pytest.ExitCode.OK:
        raise UserError("the cases cannot be collected", remedy="\n".join(collector.errors))
    return collector.items


def table_of(
    claims: Iterable[tuple[str, Claim]],
    issues: Sequence[KnownIssue] = (),
    options: Mapping[str, Sequence[str]] | None = None,
) -> list[Row]:
    """Merge what cases claim into rows, in the order of the functions in cpumap.c.

    Args:
        claims: (case, claim) pairs.
        issues: what kernels are known to fail.
        options: of debug kernels or of a flavour, which cases want; by case.

    Raises:
        UserError: two cases say the same of a function, but not of the same kernels.
    """
    proofs: dict[Claim, dict[str, None]] = {}
    for case, claim in claims:
        proofs.setdefault(claim, {})[case] = None
    told: set[tuple[str, str]] = set()
    for claim in proofs:
        if (claim.function, claim.behaviour) in told:
            raise UserError(f"{claim.function}: {claim.behaviour!r} has marks of different gates")
        told.add((claim.function, claim.behaviour))
    place = {name: number for number, name in enumerate(FUNCTIONS)}
    ordered = sorted(proofs, key=lambda claim: place[claim.function])
    wanted = options or {}
    return [_row(claim, tuple(proofs[claim]), issues, wanted) for claim in ordered]


def read_contract() -> list[Row]:
    """Return the table.

    Raises:
        UserError: a mark is wrong.
    """
    items = {item: item.nodeid.partition("[")[0] for item in collect_cases()}
    claims = ((case, claim) for item, case in items.items() for claim in claims_of(item))
    special = {name for part in own_fragments(tuple(debug_names()))[1:] for name in part.options}
    special.add(RT)
    options = {
        case: [name for name in options_wanted(item) if name in special]
        for item, case in items.items()
    }
    return table_of(claims, load_known_issues(KNOWN_ISSUES), options)


@cache
def matrix_kernels() -> dict[str, tuple[int, ...]]:
    """Return the kernels of configs/matrix.yaml: version numbers by short name.

    Raises:
        UserError: the file cannot be read.
    """
    specs = [parse_spec(spec) for spec in load_matrix(MATRIX).specs]
    debian = [spec for spec in specs if isinstance(spec, DebianSpec)]
    return {str(spec).removeprefix("debian:"): _numbers(spec) for spec in debian}


def _numbers(spec: DebianSpec) -> tuple[int, ...]:
    release = (spec.version or spec.release).partition("-")[0]
    numbers = tuple(map(int, release.split(".")))
    return numbers if len(numbers) > 2 else (*numbers, NEWEST_STABLE)


def _row(
    claim: Claim,
    cases: tuple[str, ...],
    issues: Sequence[KnownIssue],
    wanted: Mapping[str, Sequence[str]],
) -> Row:
    since = max((gate.since for gate in claim.opening), default=OLDEST)
    until = min((gate.since for gate in claim.closing), default=None)
    due = {name: numbers for name, numbers in matrix_kernels().items() if claim.holds(numbers)}
    options: tuple[str, ...] = ()
    if all(RT in wanted.get(case, ()) for case in cases):
        due = {name: numbers for name, numbers in due.items() if name.endswith("-rt")}
    elif all(wanted.get(case) for case in cases):
        options = tuple(dict.fromkeys(name for case in cases for name in wanted[case]))
        due = {}
    known = tuple(
        name
        for name, numbers in due.items()
        if all(any(issue.concerns(case, numbers) for issue in issues) for case in cases)
    )
    return Row(
        claim.function,
        claim.behaviour,
        show(since),
        show(until) if until else None,
        tuple(name for name in due if name not in known),
        known,
        cases,
        options,
    )
