"""What a bisection prints: its plan, each verdict, and the answer."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from harness.bisect.plan import Mark, expected_turns, turns, upstream_between
from harness.errors import ScenarioError
from harness.kernels.image import kernel_numbers
from harness.progress import megabytes
from harness.report.diff import Row, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.bisect.bench import Finding
    from harness.bisect.commits import Range, Traced
    from harness.bisect.hunt import Answer
    from harness.bisect.packages import Candidate
    from harness.bisect.sight import Sight

TERMS = {
    False: {Mark.OLD: "good", Mark.NEW: "bad", Mark.SKIP: "skip"},
    True: {Mark.OLD: "broken", Mark.NEW: "fixed", Mark.SKIP: "skip"},
}
"""What the two sides are called: by whether a fix is looked for."""
WHY = 160
"""Characters of a reason."""


def show_plan(name: str, candidates: Sequence[Candidate], terms: dict[Mark, str]) -> None:
    """Print what is going to be done."""
    old, new = candidates[0], candidates[-1]
    gone = [each for each in candidates if each.gone]
    here = sum(not each.bytes for each in candidates)
    size = max((each.bytes for each in candidates), default=0)
    answers = len(candidates) - 1
    click.echo(f"bisecting {name}")
    click.echo(f"  {old.version} ({terms[Mark.OLD]}) .. {new.version} ({terms[Mark.NEW]})")
    told = f"  {len(candidates)} builds of the {old.flavour} flavour, {here} of them in the cache"
    click.echo(told + (f"; a download is {megabytes(size)} at most" if size else ""))
    for reason in dict.fromkeys(each.gone for each in gone):
        which = [each.version for each in gone if each.gone == reason]
        shown = which[0] if len(which) == 1 else f"{which[0]} .. {which[-1]}"
        click.echo(f"  {len(which)} cannot be judged and are searched around: {reason} ({shown})")
    click.echo(
        f"  plan: both ends, then about {expected_turns(answers):.1f} steps, {turns(answers)} at "
        f"most{' (more around those that cannot be judged)' if gone else ''}"
    )


def show_finding(name: str, finding: Finding, terms: dict[Mark, str], note: str = "") -> None:
    """Print a verdict, and the arithmetic if there was any."""
    sight = finding.sight
    why = f": {shorten(sight.why)}" if sight.why else ""
    if finding.tally.runs > 1:
        why = f", {finding.tally} runs showed it{why}"
    click.echo(
        f"{name}  {terms[finding.mark]:>6}  ({sight.verdict}, {sight.seconds:.1f} s{why})"
        + (f"  {note}" if note else "")
    )
    for line in finding.weight.lines() if finding.weight else ():
        click.echo(f"    {line}")


def show_answer(name: str, answer: Answer, terms: dict[Mark, str], runs: Path) -> None:
    """Print between which builds the change came, and what it changed."""
    (old, old_finding), (new, new_finding) = answer.last_old, answer.first_new
    click.echo(f"\n{answer.visited} builds judged")
    click.echo(f"last {terms[Mark.OLD]}:  {old.version}  ({old.spec})")
    click.echo(f"first {terms[Mark.NEW]}: {new.version}  ({new.spec})")
    if len(answer.suspects) > 1:
        click.echo(
            f"only skipped builds are left between them; the change may have come with any of "
            f"{len(answer.suspects)}:"
        )
        for each in answer.suspects:
            click.echo(f"  {each.version}  {each.gone}".rstrip())
    click.echo(f"upstream: v{old.upstream} .. v{new.upstream}{_describe_releases(old, new)}")
    show_difference(old_finding.sight, new_finding.sight, runs)
    click.echo("to go on among the commits, in a kernel tree that has these tags:")
    invert = " --invert" if terms is TERMS[True] else ""
    ends = (new, old) if invert else (old, new)
    tags = [f"v{each.upstream}" for each in ends]
    asked = f"{shlex.quote(name)} --tree DIR --good {tags[0]} --bad {tags[1]}"
    click.echo(f"  cpumap-lab bisect {asked}{invert}")


def show_difference(old: Sight, new: Sight, runs: Path) -> None:
    """Print what is not the same in two runs, as `cpumap-lab diff` does."""
    names, rows = compare_sights(old, new, runs)
    click.echo("\nthe difference between their two runs:")
    show_table(names, rows, every=False)
    click.echo()


def compare_sights(old: Sight, new: Sight, runs: Path) -> tuple[tuple[str, str], list[Row]]:
    """Return the names of two runs and what there is to compare in them.

    Of cases no run is kept that could be read again: there it is the verdicts and the reasons.

    Args:
        old: what the one showed.
        new: what the other showed.
        runs: where the results of all runs lie; a file of several scenarios has several.
    """
    # perfetto's protobuf takes a while to import
    from harness.scenario.diff import compare, read_side  # noqa: PLC0415

    if old.artifacts and new.artifacts:
        try:
            second = read_side(new.artifacts)
            first_dir = old.artifacts
            first = read_side(first_dir)
            for each in sorted(runs.iterdir(), reverse=True):
                if first.kept.scenario.name == second.kept.scenario.name:
                    break
                other = read_side(each)
                if other.kept.recipe.get("kernel") == first.kept.recipe.get("kernel"):
                    first, first_dir = other, each
            return (str(first_dir), str(new.artifacts)), compare(first, second)
        except ScenarioError:  # pruned, or of a case
            pass
    rows = [
        Row("verdict", "verdict", old.verdict, new.verdict),
        Row("reasons", "reason", old.why or "none", new.why or "none"),
    ]
    kept = "of which nothing is kept"
    return (str(old.artifacts or f"a run {kept}"), str(new.artifacts or f"a run {kept}")), rows


def show_traced(commits: Range, traced: Traced, terms: dict[Mark, str]) -> None:
    """Print which commit brought the change, and what it changed."""
    git = commits.git
    if len(traced.found) == 1:
        click.echo(f"\nthe first {terms[Mark.NEW]} commit:")
        click.echo(git.must("show", "--stat", "--format=medium", traced.found[0]))
    else:
        click.echo(f"\nonly skipped commits are left; any of {len(traced.found)} may be it:")
        for commit in traced.found:
            click.echo(f"  {git.describe(commit)}")
    if traced.last_old and traced.first_new:
        show_difference(traced.last_old.sight, traced.first_new.sight, commits.room / "runs")
    click.echo(f"git's log, for a mail or for `git bisect replay` ({commits.log}):\n")
    click.echo(commits.log.read_text())


def shorten(text: str) -> str:
    """Return as much of a reason as fits on a line or two."""
    return text if len(text) <= WHY else f"{text[: WHY - 3]}..."


def _describe_releases(old: Candidate, new: Candidate) -> str:
    between = upstream_between(kernel_numbers(old.version), kernel_numbers(new.version))
    return f" (releases between: {', '.join(between)})" if between else ""
