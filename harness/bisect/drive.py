"""A bisection from the request to the answer, among packages and among commits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from harness.bisect.bench import Bench
from harness.bisect.commits import Range, search_commits
from harness.bisect.confidence import turn_risk
from harness.bisect.hunt import search
from harness.bisect.journal import Journal
from harness.bisect.packages import Prefetch, bring, find_candidates
from harness.bisect.sight import LabBroken, Sight
from harness.bisect.tell import (
    TERMS,
    show_answer,
    show_finding,
    show_plan,
    show_traced,
)
from harness.bisect.tree import judge_tree, open_tree
from harness.errors import LabError, UserError

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence
    from pathlib import Path

    from harness.bisect.bench import Finding
    from harness.bisect.hunt import Answer
    from harness.bisect.packages import Candidate
    from harness.bisect.plan import Mark
    from harness.bisect.subject import Subject
    from harness.phases import Phases


@dataclass(frozen=True)
class Request:
    """What is looked for, and how.

    Attributes:
        subject: what is run.
        signature: what shows the failure on the console; None: the verdict does.
        invert: look for a fix.
        confidence: the chance that the answer is to be right; None: one run decides.
        restart: forget what the same request saw before.
        phases: told what goes on.
    """

    subject: Subject
    signature: re.Pattern[str] | None
    invert: bool
    confidence: float | None
    restart: bool
    phases: Phases

    @property
    def terms(self) -> dict[Mark, str]:
        """What the two sides are called."""
        return TERMS[self.invert]

    def journal(self, **where: Any) -> Journal:
        """Open the journal of this request, and of no other."""
        key = {
            "subject": self.subject.name,
            "content": self.subject.content,
            "signature": self.signature.pattern if self.signature else None,
            "invert": self.invert,
            "confidence": self.confidence,
        }
        journal = Journal(key | where, restart=self.restart)
        click.echo(f"journal: {journal.path}")
        if journal.resumed:
            click.echo(f"  {journal.resumed} runs of it count: --restart forgets them")
        return journal

    def bench(self, ask: Any, journal: Journal, answers: int) -> Bench:
        """Return what judges kernels as surely as was asked, and say how surely that is."""
        risk = None
        if self.confidence:
            risk = turn_risk(self.confidence, answers)
            click.echo(
                f"  {self.confidence:g} sure: each verdict may be wrong with a chance of {risk:.2g}"
            )
        return Bench(ask, journal, new_shows=not self.invert, risk=risk, tell=self.phases.begin)


def bisect_packages(
    request: Request,
    good: str,
    bad: str,
    *,
    skip: Sequence[str],
    only_cached: bool,
    only_plan: bool,
) -> Answer | None:
    """Find the build that brought a change; None if only the plan was asked for.

    Args:
        request: what is looked for.
        good: the spec of one end.
        bad: that of the other.
        skip: specs of builds not to be run.
        only_cached: leave out what would have to be fetched.
        only_plan: stop after the plan.

    Raises:
        LabError: as `harness.bisect.hunt.search`.
    """
    candidates, notes = find_candidates(
        (good, bad),
        any_order=request.invert,
        only_cached=only_cached,
        skip=skip,
        progress=request.phases.fetch,
    )
    request.phases.end()
    for note in notes:
        click.echo(f"note: {note}", err=True)
    show_plan(request.subject.name, candidates, request.terms)
    if only_plan:
        return None
    by_spec = {each.spec: each for each in candidates}
    old, new = candidates[0], candidates[-1]
    journal = request.journal(old=old.version, new=new.version, flavour=old.flavour)
    runs = journal.directory / "runs"

    def ask(spec: str) -> Sight:
        try:
            gone = bring(by_spec[spec], progress=request.phases.fetch)
        except LabError as error:
            raise LabBroken(f"{spec} cannot be brought: {error}") from error
        finally:
            request.phases.end()
        return Sight(None, "skip", gone) if gone else request.subject.ask(spec, runs)

    def tell(candidate: Candidate, finding: Finding, left: int) -> None:
        request.phases.end()
        show_finding(candidate.version, finding, request.terms, f"at most {left} to go")

    prefetch = Prefetch()
    with journal:
        try:
            bench = request.bench(ask, journal, len(candidates) - 1)
            answer = search(candidates, bench, prefetch, tell)
        finally:
            prefetch.stop()
            request.phases.end()
    show_answer(request.subject.name, answer, request.terms, runs)
    return answer


def tags_of(tree: Path, answer: Answer, *, invert: bool) -> tuple[str, str]:
    """Return the tags of a tree between which an answer lies, as --good and --bad.

    Args:
        tree: a kernel's.
        answer: among packages.
        invert: it is a fix.

    Raises:
        UserError: the tree has no such tags.
    """
    git, tags = open_tree(tree), []
    for candidate, _ in (answer.last_old, answer.first_new):
        series = ".".join(candidate.upstream.split(".")[:2])
        wanted = [f"v{candidate.upstream}", f"v{series}"]  # a mainline tree has no stable releases
        tag = next((each for each in wanted if git.has(each)), None)
        if tag is None:
            raise UserError(
                f"{git.directory} has none of the tags {', '.join(wanted)}: the search cannot go "
                "on among its commits",
                remedy="`git fetch --tags` from linux-stable, and give the same command again",
            )
        tags.append(tag)
    return (tags[1], tags[0]) if invert else (tags[0], tags[1])


def bisect_commits(request: Request, tree: Path, good: str, bad: str) -> bool:
    """Find the commit that brought a change, by `git bisect`; say whether it is just one.

    Args:
        request: what is looked for.
        tree: a kernel's work tree.
        good: a revision of it.
        bad: another.

    Raises:
        LabError: as `harness.bisect.commits.search_commits`.
    """
    git = open_tree(tree)
    old, new = git.commit(good), git.commit(bad)
    if request.invert and not git.precedes(old, new):
        old, new = new, old
    if old == new:
        raise UserError(f"{good} and {bad} are the same commit")
    if git.precedes(new, old):
        raise UserError(
            f"{bad} comes before {good}",
            remedy="exchange them; to find what fixed something, add --invert",
        )
    click.echo(f"bisecting {request.subject.name} in {git.directory}")
    for mark, commit in zip(request.terms, (old, new), strict=False):
        click.echo(f"  {request.terms[mark]}: {git.describe(commit)}")
    answers = int(git.must("rev-list", "--count", new, f"^{old}"))
    click.echo(f"  {answers} commits, about {max(answers.bit_length() - 1, 0)} steps")
    journal = request.journal(tree=str(git.directory), old=old, new=new)
    commits = Range(git, old, new, request.terms, journal.directory)

    def ask(commit: str) -> Sight:
        commits.look_at(commit)
        return judge_tree(
            git.directory, request.subject, journal.directory / "runs", request.phases
        )

    def tell(commit: str, finding: Finding, step: str) -> None:
        request.phases.end()
        show_finding(git.describe(commit), finding, request.terms, step)

    with journal:
        try:
            traced = search_commits(commits, request.bench(ask, journal, answers), tell)
        except (KeyboardInterrupt, SystemExit, LabBroken):
            click.echo(f"{git.directory} stays at {git.describe('HEAD')}; the same command goes on")
            raise
        finally:
            request.phases.end()
    show_traced(commits, traced, request.terms)
    return len(traced.found) == 1
