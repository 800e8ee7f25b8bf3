"""`cpumap-lab bisect-step`: one step of `git bisect run`, by its exit status."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from harness.bisect.options import INVERT, SIGNATURE, SUBJECT
from harness.bisect.sight import ABORT_STATUS
from harness.errors import LabError

if TYPE_CHECKING:
    import re

    from harness.bisect.sight import Sight

SKIP_STATUS = 125
TRIES = 2
"""Runs without a verdict for the lab's sake (invalid), after which a commit is skipped."""


class Step(click.Command):
    """A command whose every fault stops a bisection: git takes 1 to 124, 126 and 127 for "bad"."""

    def make_context(self, *arguments: object, **more: object) -> click.Context:
        """Read the command line."""
        try:
            return super().make_context(*arguments, **more)  # type: ignore[arg-type]
        except click.UsageError as error:
            error.show()
            raise click.exceptions.Exit(ABORT_STATUS) from error

    def invoke(self, ctx: click.Context) -> object:
        """Run the step."""
        try:
            return super().invoke(ctx)
        except LabError as error:
            _abort(ctx, str(error))
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            sys.excepthook(*sys.exc_info())
            _abort(ctx, f"a fault of cpumap-lab's own: {error!r}")


@click.command("bisect-step", cls=Step)
@SUBJECT
@INVERT
@SIGNATURE
def bisect_step(subject: str, *, invert: bool, signature: re.Pattern[str] | None) -> None:
    """Build the kernel tree that this is run in, boot it, and judge it by SUBJECT.

    SUBJECT is a scenario's file, or a case by its pytest id. The tree is built out of tree with
    our own configuration (configs/kconfig), incrementally. With --invert "bad" is what has the fix.

    \b
    Example, in a kernel tree:
      git bisect start v6.16 v6.12
      git bisect run cpumap-lab bisect-step ~/mine.yaml

    \b
    Exit status:
      0    good
      1    bad: it failed, or the kernel crashed
      125  skip: it does not build, does not boot, has no such feature; or there is no verdict
      129  stop: the lab is at fault, or the request is wrong; no commit is to blame
    """  # noqa: D301
    # Guests take a while to import
    from harness.bisect.subject import make_subject  # noqa: PLC0415
    from harness.bisect.tree import judge_tree, top_of  # noqa: PLC0415
    from harness.paths import cache_dir  # noqa: PLC0415
    from harness.phases import Phases  # noqa: PLC0415

    tree = top_of(Path.cwd()).directory
    with Phases(sys.stderr) as phases:
        asked = make_subject(subject, phases, signature)
        for _ in range(TRIES):
            sight = judge_tree(tree, asked, cache_dir("results"), phases)
            if sight.verdict != "invalid":
                break
    why = f": {sight.why}" if sight.why else ""
    status = status_of(sight, invert=invert)
    told = {0: "good", 1: "bad", SKIP_STATUS: "skip"}[status]
    click.echo(f"{told} ({sight.verdict}, {sight.seconds:.1f} s){why}")
    if sight.artifacts:
        click.echo(f"results: {sight.artifacts}")
    click.get_current_context().exit(status)


def status_of(sight: Sight, *, invert: bool) -> int:
    """Return what git is to think of a commit."""
    return SKIP_STATUS if sight.shown is None else int(sight.shown != invert)


def _abort(ctx: click.Context, why: str) -> NoReturn:
    click.echo(f"error: {why}", err=True)
    ctx.exit(ABORT_STATUS)
