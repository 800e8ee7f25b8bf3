"""What kernels are known to do wrong, from configs/known-issues.yaml, and what follows from it.

A case that fails as an issue describes is `known`, and only on the issue's kernels, only with the
issue's signature, and only until it expires. A case that passes there is news as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from harness.forms.load import Form
from harness.forms.model import Line, Model, Words, keys_of, refuse, refuse_repeats
from harness.judge import Judgement
from harness.paths import REPO
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILE = REPO / "configs" / "known-issues.yaml"


def _check_regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise refuse(f"no regular expression: {error}") from error
    return text


def _check_date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise refuse('a date in quotes is needed, like "2027-03-31"') from error
    return text


Version = Annotated[
    str,
    Field(pattern=r"^\d+\.\d+(\.\d+)?$"),
    Words('a series or a release in quotes, like "6.1" or "6.1.44"'),
]
Date = Annotated[str, AfterValidator(_check_date), Words('a date in quotes, like "2027-03-31"')]


class Kernels(Model):
    """From one version to another, both included; a series means all of its releases."""

    since: Version = Field(alias="from", description="the first that has the issue")
    until: Version | None = Field(default=None, description="the last; left out while all have it")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.until is not None and not self._reach(_numbers(self.since)):
            raise refuse(f"`until` {self.until} comes before `from` {self.since}")
        return self

    def __contains__(self, kernel: tuple[int, ...]) -> bool:
        return kernel >= _numbers(self.since) and self._reach(kernel)

    def _reach(self, kernel: tuple[int, ...]) -> bool:
        last = _numbers(self.until) if self.until else ()
        return kernel[: len(last)] <= last


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


class Issue(Model):
    """One thing that some kernels do wrong, and the case that shows it."""

    id: Annotated[
        str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$"), Words("words in small letters, with -")
    ] = Field(description="what it is called")
    title: Annotated[Line, Field(min_length=1, max_length=120)] = Field(description="what is wrong")
    case: Annotated[
        str,
        Field(pattern=r"^[^\s:]+\.py::\S+$"),
        Words("a pytest id without the kernel, like cases/test_known.py::test_it"),
    ] = Field(description="the case that shows it; without [parameters], whichever they are")
    kernels: Kernels = Field(description="the kernels that have it")
    signature: Annotated[
        str, Field(min_length=1), AfterValidator(_check_regex), Words("a regular expression")
    ] = Field(description="what is found in the failure's text, and in no other's")
    evidence: Annotated[str, Field(min_length=1), Words("sentences")] = Field(
        description="how it is known, and why it happens"
    )
    link: Annotated[
        str, Field(pattern=r"^(https?://\S+|none found)$"), Words("a URL, or `none found`")
    ] = Field(description="where it is told upstream")
    expires: Date = Field(description="the day after which somebody has to look again")


def _check_ids(issues: tuple[Issue, ...]) -> tuple[Issue, ...]:
    refuse_repeats([issue.id for issue in issues], "id")
    return issues


FORM: Form[tuple[Issue, ...]] = Form(
    Annotated[tuple[Issue, ...], AfterValidator(_check_ids)],
    "list of known issues",
    f"known issues are a list; each has the keys {keys_of(Issue)}",
    listed=True,
)


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """An issue, and where it is written down.

    Attributes:
        issue: the issue.
        place: file and line.
    """

    issue: Issue
    place: str

    def concerns(self, case: str, kernel: tuple[int, ...]) -> bool:
        """Tell whether a case is to show it on a kernel."""
        names = (case, case.partition("[")[0])
        return self.issue.case in names and kernel in self.issue.kernels


def load_known_issues(path: Path) -> list[KnownIssue]:
    """Read a file of known issues.

    Raises:
        UserError: with one line for each thing that is wrong in it, by line and column.
    """
    issues, document = FORM.load(path)
    shown = path.relative_to(REPO) if path.is_relative_to(REPO) else path
    return [
        KnownIssue(issue, f"{shown}:{document.blame((number,), '').line}")
        for number, issue in enumerate(issues)
    ]


def weigh(
    judgement: Judgement,
    told: str,
    concerned: Sequence[KnownIssue],
    kernel: tuple[int, ...],
    today: date | None = None,
) -> tuple[Judgement, Issue | None]:
    """Return the judgement on a case in the light of the issues that it is to show.

    Args:
        judgement: without that light.
        told: all that is said of the failure or the crash.
        concerned: the issues that the case is to show on this kernel.
        kernel: its version numbers.
        today: expiry is measured by it; by default the day that it is.

    Returns:
        The judgement, and the issue if the verdict is `known`.
    """
    if judgement.verdict is Verdict.PASS and concerned:
        version = ".".join(map(str, kernel))
        gone = (
            f"known issue {known.issue.id} no longer reproduces on {version}: "
            f"remove or narrow it in {known.place}"
            for known in concerned
        )
        return Judgement(Verdict.FAIL, tuple(gone)), None
    if judgement.verdict not in (Verdict.FAIL, Verdict.CRASH):
        return judgement, None
    for known in concerned:
        issue = known.issue
        if not re.search(issue.signature, told):
            continue
        if (today or datetime.now(UTC).date()) > date.fromisoformat(issue.expires):
            why = (
                f"known issue {issue.id} expired on {issue.expires}: see whether it is still open "
                f"upstream, then renew `expires` or remove it in {known.place}"
            )
            return Judgement(judgement.verdict, (why, *judgement.reasons)), None
        return Judgement(Verdict.KNOWN, (f"{issue.id}: {issue.title}",)), issue
    return judgement, None
