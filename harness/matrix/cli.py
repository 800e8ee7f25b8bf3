"""`cpumap-lab matrix`: kernels x cases, in one run of pytest on all cores."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from harness.errors import LabError, ToolMissing, UserError
from harness.kernels import parse_spec, resolve
from harness.kernels.lock_cli import LOCKED
from harness.matrix.grid import show_grid, summarize, to_json
from harness.matrix.page import write_page
from harness.matrix.plan import EXPRESSION, FILE, fault_of, load_matrix
from harness.matrix.results import Collector
from harness.paths import REPO
from harness.progress import shown
from harness.report.record import KernelRecord
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.kernels.lock import Lock
    from harness.matrix.plan import Cases, Matrix
    from harness.matrix.results import Result

CASES = REPO / "cases"
WIDTH = 200
"""Of the grid where there is no terminal."""
INTERRUPTED_STATUS = 130


def _check_specs(_: click.Context, __: click.Parameter, specs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(parse_spec(spec)) for spec in specs)


def _check_expression(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Refuse what each of many workers would refuse."""
    if fault := fault_of(text or "any"):
        raise UserError(f"-k {text!r}: {fault}", remedy=EXPRESSION)
    return text


@click.command("matrix")
@click.argument("file", metavar="[FILE]", default=FILE, type=click.Path(path_type=Path))
@click.option(
    "--kernel",
    "specs",
    metavar="SPEC",
    multiple=True,
    callback=_check_specs,
    help="Only this kernel; repeat it for several.",
)
@click.option("--all", "cases", flag_value="all", help="All cases, whatever the file says.")
@click.option("--smoke", "cases", flag_value="smoke", help="Only the cases marked smoke.")
@click.option(
    "-k",
    "expression",
    metavar="EXPR",
    callback=_check_expression,
    help="Only matching cases (pytest -k).",
)
@click.option(
    "-n", "workers", metavar="N", type=click.IntRange(1, 64), help="Guests at once (one per core)."
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write results there.",
)
@click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write all of it there as one page.",
)
@LOCKED
@click.option("-v", "--verbose", is_flag=True, help="A row per case, not one per file.")
def matrix(
    file: Path,
    specs: tuple[str, ...],
    cases: Cases | None,
    expression: str | None,
    workers: int | None,
    json_path: Path | None,
    html_path: Path | None,
    lock: Lock | None,
    verbose: bool,
) -> None:
    """Run the cases on many kernels and print a grid.

    FILE says which cases run on which kernels; it is configs/matrix.yaml by default.

    \b
    Examples:
      cpumap-lab matrix
      cpumap-lab matrix --kernel debian:6.1 --kernel debian:7.3-rt --all
      cpumap-lab matrix --smoke --json matrix.json --html matrix.html
      cpumap-lab matrix -k queue_limit -v

    \b
    Exit status:
      0    every case passed, was skipped, or failed as a known issue says
      1    a case failed, or a kernel crashed
      2    the request is wrong: the file, a kernel spec, an option
      125  otherwise: there is a case on which the lab has no verdict (invalid)
    """  # noqa: D301
    chosen = load_matrix(file).choose(specs, cases)
    for path in (json_path, html_path):
        if path is not None and not path.parent.is_dir():
            raise UserError(f"there is no directory {path.parent} to write the results to")
    with shown() as progress:
        kernels = [
            KernelRecord(spec, image.release, image.sha256)
            for spec in chosen.specs
            for image in [resolve(spec, pin=lock.pin(spec) if lock else None, progress=progress)]
        ]
    for kernel in kernels:
        click.echo(f"{kernel.spec} = {kernel.release}", err=True)
    collector, start = Collector(chosen.specs), time.monotonic()
    workers = workers or len(os.sched_getaffinity(0))
    status = run_pytest(chosen, collector, expression, workers, locked=lock is not None)
    results = collector.results()
    complete = status is None and not collector.interrupted
    if json_path is not None:
        told = to_json(results, kernels, complete=complete)
        json_path.write_text(json.dumps(told, indent=1) + "\n")
    if html_path is not None:
        write_page(html_path, results, kernels, complete=complete)
    if results:
        console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
        click.echo()
        show_grid(console, results, chosen.specs, by_case=verbose)
        click.echo(f"\n{summarize(results, time.monotonic() - start)}")
    if collector.interrupted:
        click.echo("interrupted: the rest was not run", err=True)
        click.get_current_context().exit(INTERRUPTED_STATUS)
    if status is not None:
        raise status
    click.get_current_context().exit(worst_status(results))


def run_pytest(
    chosen: Matrix,
    collector: Collector,
    expression: str | None,
    workers: int,
    *,
    locked: bool,
    more: Sequence[str] = (),
) -> LabError | None:
    """Run the cases and return what kept them from being run, if anything did.

    Args:
        chosen: kernels and cases.
        collector: takes the results.
        expression: pytest's -k.
        workers: guests at once.
        locked: take the kernels of the lock, and no others.
        more: further options for pytest.
    """
    import pytest  # noqa: PLC0415 - only here

    options = ["-q", "-rN", "--tb=short", "-p", "no:cacheprovider", "--rootdir", str(REPO)]
    options += ["-c", str(REPO / "pyproject.toml")]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # the command is of the package
    for row in chosen.kernels:
        options += ["--kernel" if row.cases == "all" else "--smoke", row.kernel]
    options += ["--locked"] if locked else []
    if expression is not None:
        options += ["-k", expression]
    if workers > 1:
        if importlib.util.find_spec("xdist") is None:
            raise ToolMissing("pytest-xdist is not installed", remedy="run `ci/setup`, or give -n1")
        # Each worker begins with kernels of its own, so that none waits for another's snapshot
        options += ["-n", str(workers), "--dist", "worksteal"]
    # To be told to end is to be interrupted: pytest ends its workers, their guests end with them
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    status = pytest.main([*options, *more, str(CASES)], plugins=[collector])
    if collector.faults:
        return LabError("cases that cannot be read:\n" + "\n".join(collector.faults))
    if status == pytest.ExitCode.USAGE_ERROR:
        return UserError("pytest refuses this: see above")
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        return UserError("no case fits", remedy="see `pytest cases --collect-only -q`")
    if status == pytest.ExitCode.INTERNAL_ERROR:
        return LabError("pytest broke: see above")
    return None


def worst_status(results: Iterable[Result]) -> int:
    """Return the exit status: 1 wins over 125, and that over 0; a skip is no failure."""
    statuses = {r.verdict.exit_status for r in results if r.verdict is not Verdict.SKIP}
    return next((status for status in (1, 125) if status in statuses), 0)
