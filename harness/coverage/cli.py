"""`cpumap-lab coverage`: how much of cpumap.c the cases reach, and what they do not."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from harness.coverage.counters import merge, notes_of
from harness.coverage.lcov import to_lcov
from harness.coverage.result import branches_of, lines_of, read_coverage
from harness.coverage.unreached import load_reasons, outdated, why_unreached
from harness.errors import UserError
from harness.kernels import resolve
from harness.kernels.build import build_kernel, output_of
from harness.kernels.kconfig import own_fragments
from harness.kernels.source import NEWEST, fetch_source
from harness.matrix.cli import WIDTH, run_pytest, worst_status
from harness.matrix.plan import Matrix, Row
from harness.matrix.results import Collector
from harness.progress import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.coverage.result import Coverage, Share
    from harness.coverage.unreached import Reason

FEATURES = ("failslab", "gcov")
"""Of the kernel that is measured: what handles failed allocations is reached, too."""
FLOOR = 95.0
"""Percent of the lines."""


@click.command("coverage")
@click.option("--kernel", "spec", metavar="SPEC", help="A kernel that was built with gcov.")
@click.option("-k", "expression", metavar="EXPR", help="Only matching cases (pytest -k).")
@click.option(
    "-n", "workers", metavar="N", type=click.IntRange(1, 64), help="Guests at once (one per core)."
)
@click.option(
    "--counters",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep what was counted there, and add what is there already.",
)
@click.option("--no-run", is_flag=True, help="Run nothing: report what is in --counters.")
@click.option("--lcov", type=click.Path(path_type=Path, dir_okay=False), help="Write lcov there.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write JSON there."
)
@click.option(
    "--at-least",
    "floor",
    metavar="PERCENT",
    type=click.FloatRange(0, 100),
    default=FLOOR,
    show_default=True,
    help="Of the lines; below that the exit status is 1.",
)
def coverage(
    spec: str | None,
    expression: str | None,
    workers: int | None,
    counters: Path | None,
    no_run: bool,
    lcov: Path | None,
    json_path: Path | None,
    floor: float,
) -> None:
    """Run the cases on a kernel that counts what it runs: which of cpumap.c do they reach?

    Without --kernel, Debian's newest source is built with gcov and failing allocations. Lines and
    branches are counted in every guest, and added up. What no case reaches is listed, with the
    reason that configs/unreached.yaml has.

    \b
    Examples:
      cpumap-lab coverage
      cpumap-lab coverage -k "queue_limit or teardown" --lcov cpumap.info
      cpumap-lab coverage --kernel tree:$HOME/linux-gcov

    \b
    Exit status:
      0    every case passed, was skipped, or failed as known, and enough lines were reached
      1    a case failed, or fewer lines were reached than --at-least
      2    the request is wrong
      125  there is a case on which the lab has no verdict
    """  # noqa: D301
    if no_run and counters is None:
        raise click.UsageError("--no-run takes --counters DIR")
    for path in (lcov, json_path):
        if path is not None and not path.parent.is_dir():
            raise UserError(f"there is no directory {path.parent} to write {path.name} to")
    reasons = load_reasons()
    spec = spec or _build()
    notes = notes_of(resolve(spec))
    with tempfile.TemporaryDirectory() as scratch:
        into = counters or Path(scratch, "counters")
        into.mkdir(parents=True, exist_ok=True)
        status = 0
        if not no_run:
            status = _run(spec, expression, workers, into)
        files = sorted(into.glob("*.gcda"))
        if not files:
            raise UserError(f"nothing was counted: there is no .gcda in {into}")
        summed = Path(scratch, "summed")
        summed.mkdir()
        found = read_coverage(merge(files, notes, summed))
    if lcov is not None:
        lcov.write_text(to_lcov(found))
    if json_path is not None:
        json_path.write_text(json.dumps(to_json(found, reasons), indent=1) + "\n")
    show(Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False), found, reasons)
    lines = lines_of(found.lines)
    if lines.percent < floor:
        click.echo(f"{lines} lines reached: fewer than {floor} %", err=True)
        status = 1
    click.get_current_context().exit(status)


def _build() -> str:
    with shown() as progress:
        tree = fetch_source(NEWEST, progress=progress)
    fragments = own_fragments(FEATURES)
    with shown() as progress:
        built = build_kernel(tree, fragments, output_of(tree, fragments), progress=progress)
    return f"path:{built.image}"


def _run(spec: str, expression: str | None, workers: int | None, into: Path) -> int:
    collector = Collector([spec])
    error = run_pytest(
        Matrix(kernels=(Row(kernel=spec),)),
        collector,
        expression,
        workers or len(os.sched_getaffinity(0)),
        locked=False,
        more=("--gcov", str(into.absolute())),
    )
    if error is not None:
        raise error
    if collector.interrupted:
        raise KeyboardInterrupt
    return worst_status(collector.results())


def show(console: Console, found: Coverage, reasons: Sequence[Reason]) -> None:
    """Print the coverage of each function, and all that was not reached."""
    table = Table("FUNCTION", "LINES", "BRANCHES", box=None)
    for name, lines in found.functions.items():
        table.add_row(name, _cell(lines_of(lines)), _cell(branches_of(lines)))
    table.add_row("all", str(lines_of(found.lines)), str(branches_of(found.lines)))
    console.print(table)
    if found.unreached:
        console.print("\nnot reached:")
    for (function, why), group in groupby(
        found.unreached, lambda line: (line.function, why_unreached(line, reasons))
    ):
        told = why or "no case does, and nobody has said why (configs/unreached.yaml)"
        console.print(f"\n{function}: {told}", markup=False, soft_wrap=True)
        for line in group:
            console.print(f"  {line.number}: {line.text}", markup=False)
    for reason in outdated(found, reasons):
        code = ", ".join(reason.code)
        console.print(
            f"note: in configs/unreached.yaml, but reached or gone: {reason.function}: {code}",
            markup=False,
        )


def _cell(share: Share) -> str:
    if share.reached == share.total:
        return f"{share.total}" if share.total else "-"
    return f"{share.reached} of {share.total}"


def to_json(found: Coverage, reasons: Sequence[Reason]) -> dict[str, object]:
    """Return the coverage for programs."""
    lines, branches = lines_of(found.lines), branches_of(found.lines)
    return {
        "source": str(found.source),
        "lines": {"reached": lines.reached, "total": lines.total},
        "branches": {"reached": branches.reached, "total": branches.total},
        "functions": {
            name: {"lines": str(lines_of(part)), "branches": str(branches_of(part))}
            for name, part in found.functions.items()
        },
        "unreached": [
            {
                "line": line.number,
                "function": line.function,
                "text": line.text,
                "why": why_unreached(line, reasons),
            }
            for line in found.unreached
        ],
    }
