"""`cpumap-lab bisect`: which build of the archive, or which commit, brought a change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.bisect.options import INVERT, SIGNATURE, SUBJECT

if TYPE_CHECKING:
    import re

UNDECIDED_STATUS = 125


@click.command("bisect")
@SUBJECT
@click.option("--good", metavar="KERNEL", required=True, help="A kernel, or commit, without it.")
@click.option("--bad", metavar="KERNEL", required=True, help="One that has it.")
@INVERT
@SIGNATURE
@click.option(
    "--confidence",
    metavar="CHANCE",
    type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
    help="For a failure that does not always show itself: run each kernel until the answer is "
    "right with this chance, like 0.99.",
)
@click.option(
    "--tree",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    help="A kernel's git tree: --good and --bad are commits of it; or, if they are packages, go on "
    "among its commits afterwards.",
)
@click.option("--skip", metavar="KERNEL", multiple=True, help="Never run this one; repeatable.")
@click.option("--cached", is_flag=True, help="Only kernels that need not be fetched.")
@click.option("--restart", is_flag=True, help="Forget what the same bisection saw before.")
@click.option("--plan", "only_plan", is_flag=True, help="Print the plan and stop.")
def bisect(
    subject: str,
    good: str,
    bad: str,
    *,
    invert: bool,
    signature: re.Pattern[str] | None,
    confidence: float | None,
    tree: Path | None,
    skip: tuple[str, ...],
    cached: bool,
    restart: bool,
    only_plan: bool,
) -> None:
    """Find the kernel package, or the commit, that changed how SUBJECT ends.

    SUBJECT is a scenario's file, or a case by its pytest id (with or without the kernel in it). It
    is run on both ends first: if one is on the wrong side, that is told and nothing else is done.
    Then the middle of what is left is fetched and run, until a last good and a first bad kernel are
    neighbours. A kernel without a verdict (it does not boot, it has no such feature) is skipped and
    searched around. Each run is in a journal before the next begins: the same command goes on where
    it was cut off.

    \b
    Examples:
      cpumap-lab bisect configs/quickstart.yaml --good debian:6.12 --bad debian:7.3
      cpumap-lab bisect cases/test_gro.py::test_x --good debian:6.12.43 --bad debian:6.12
      cpumap-lab bisect mine.yaml --good debian:6.12 --bad debian:7.3 --signature 'eth_type_trans'
      cpumap-lab bisect flaky.yaml --good debian:6.12 --bad debian:7.3 --confidence 0.99
      cpumap-lab bisect mine.yaml --bad debian:6.1 --good debian:7.3 --invert   # what fixed it
      cpumap-lab bisect mine.yaml --tree ~/linux --good v6.12 --bad v6.16
      cpumap-lab bisect mine.yaml --good debian:6.12 --bad debian:7.3 --tree ~/linux

    debian:6.12 is the newest 6.12, as everywhere: begin at debian:6.12.43 (see `cpumap-lab kernels
    list --all`) to have all of 6.12 searched as well.

    \b
    Exit status:
      0    found
      2    the request is wrong, an end is on the wrong side, or cannot be judged
      125  several are left, for those between could not be judged
      129  the lab is at fault: mend it, and the same command goes on
    """  # noqa: D301
    # Guests, their traces and their like take a while to import: not for --help
    from harness.bisect.drive import Request, bisect_commits, bisect_packages, tags_of  # noqa: PLC0415
    from harness.bisect.subject import make_subject  # noqa: PLC0415
    from harness.phases import Phases  # noqa: PLC0415

    packages = tree is None or any(each.startswith("debian:") for each in (good, bad))
    if not packages and (skip or cached or only_plan):
        raise click.UsageError("--skip, --cached and --plan are for packages")
    with Phases(sys.stderr) as phases:
        question = make_subject(subject, phases, signature)
        request = Request(question, signature, invert, confidence, restart, phases)
        if packages:
            answer = bisect_packages(
                request, good, bad, skip=skip, only_cached=cached, only_plan=only_plan
            )
            if answer is None:
                return
            found = len(answer.suspects) == 1
            if tree is not None:
                good, bad = tags_of(tree, answer, invert=invert)
        if tree is not None:
            found = bisect_commits(request, tree, good, bad)
    if not found:
        click.get_current_context().exit(UNDECIDED_STATUS)
