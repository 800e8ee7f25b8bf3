"""The search among commits: git bisect chooses, we build, run and tell it what came of that."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.bisect.plan import Mark
from harness.errors import UserError
from harness.landing import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.bisect.bench import Bench, Finding
    from harness.bisect.tree import Git

FOUND = re.compile(r"^([0-9a-f]{40,64}) is the first \S+ commit$", re.MULTILINE)
ONLY_SKIPPED = "There are only 'skip'ped commits left to test"
STARTED = "started-from"
_STEP = re.compile(r"^git bisect \S+ ([0-9a-f]{40,64})$")


@dataclass(frozen=True)
class Range:
    """Commits to search, by their hashes.

    Attributes:
        git: the tree.
        old: the older end.
        new: the newer end, which has the change.
        terms: what git calls the two sides.
        room: a directory of this bisection's own.
    """

    git: Git
    old: str
    new: str
    terms: dict[Mark, str]
    room: Path

    @property
    def log(self) -> Path:
        """Where git's log goes, for a mail or for `git bisect replay`."""
        return self.room / "bisect.log"

    def look_at(self, commit: str) -> None:
        """Check a commit out."""
        if self.git.commit("HEAD") != commit:
            self.git.must("checkout", "--quiet", "--detach", commit)


@dataclass
class Traced:
    """How a search ended.

    Attributes:
        found: the commits that the change may have come with; one, if all could be judged.
        last_old: how the last commit without the change was found to be.
        first_new: how the first with it was.
        findings: by commit.
    """

    found: list[str] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    last_old: Finding | None = None
    first_new: Finding | None = None


def search_commits(
    commits: Range, bench: Bench, tell: Callable[[str, Finding, str], None]
) -> Traced:
    """Have git find the commit that brought a change.

    The work tree is put back when the search is over. If it is cut off, the tree stays where it is,
    so that the next build finds the files as they were.

    Args:
        commits: where to search.
        bench: judges commits by their hash; it checks them out only to run them.
        tell: told each finding, and how git says that it goes on.

    Raises:
        UserError: an end is on the wrong side, or git refuses.
        LabBroken: the lab cannot judge.
    """
    git, traced = commits.git, Traced()
    _begin(commits)

    def mark(commit: str, finding: Finding) -> str:
        traced.findings[commit] = finding
        if finding.mark is Mark.OLD:
            traced.last_old = finding
        if finding.mark is Mark.NEW:
            traced.first_new = finding
        ran = git.run("bisect", commits.terms[finding.mark], commit)
        said = ran.stdout + ran.stderr
        if ran.returncode and ONLY_SKIPPED not in said:
            raise UserError(f"git bisect does not go on from {commit[:12]}: {said.strip()}")
        steps = next((line for line in said.splitlines() if line.startswith("Bisecting:")), "")
        tell(commit, finding, steps)
        return said

    try:
        ends = bench.judge_ends(commits.old, commits.new, lambda _: None)
        mark(commits.new, ends[1])
        said = mark(commits.old, ends[0])
        while not (found := list(_read_end(said))):
            commit = git.commit("BISECT_HEAD")
            said = mark(commit, bench.judge(commit))
        traced.found = found
        write_atomically(commits.log, annotate(git.must("bisect", "log"), traced).encode())
        end(commits)
    except UserError:
        end(commits)
        raise
    return traced


def _begin(commits: Range) -> None:
    git, started = commits.git, commits.room / STARTED
    if not git.run("bisect", "log").returncode:
        if not started.exists():
            raise UserError(
                f"a bisection of somebody else's is under way in {git.directory}",
                remedy="end it with `git bisect reset`, or give another work tree",
            )
        git.must("bisect", "reset")
    if not started.exists():
        branch = git.run("symbolic-ref", "--short", "--quiet", "HEAD").stdout.strip()
        write_atomically(started, (branch or git.commit("HEAD")).encode())
    names = []
    if commits.terms[Mark.OLD] != "good":
        names = [f"--term-old={commits.terms[Mark.OLD]}", f"--term-new={commits.terms[Mark.NEW]}"]
    # What is in the journal need not be checked out to be told to git once more
    git.must("bisect", "start", "--no-checkout", *names)


def end(commits: Range) -> None:
    """End git's bisection and check out what was there before."""
    commits.git.must("bisect", "reset")
    started = commits.room / STARTED
    with contextlib.suppress(FileNotFoundError):
        commits.git.must("checkout", "--quiet", started.read_text())
        started.unlink()


def _read_end(said: str) -> Iterator[str]:
    """Yield the commits that git names as the answer; none while it goes on."""
    if match := FOUND.search(said):
        yield match[1]
    elif ONLY_SKIPPED in said:
        yield from re.findall(r"^([0-9a-f]{40,64})$", said, re.MULTILINE)


def annotate(log: str, traced: Traced) -> str:
    """Return git's log with what was seen of each commit; git takes it back (`bisect replay`)."""
    lines = []
    for line in log.replace(" '--no-checkout'", "").splitlines():
        lines.append(line)
        step = _STEP.match(line)
        if step and (finding := traced.findings.get(step[1])):
            sight = finding.sight
            why = f": {sight.why}" if sight.why else ""
            runs = f", {finding.tally} runs showed it" if finding.tally.runs > 1 else ""
            lines.append(f"#   {sight.verdict}{runs}{why}")
    return "\n".join(lines) + "\n"
