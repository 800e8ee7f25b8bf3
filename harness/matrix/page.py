"""The page of all that pytest ran: a row per case, a column per kernel, and their stories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.report.overview import INCOMPLETE, Cell, render_overview

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.matrix.results import Result
    from harness.report.record import KernelRecord


def write_page(
    path: Path, results: Iterable[Result], kernels: Iterable[KernelRecord], *, complete: bool
) -> None:
    """Write the page.

    Args:
        path: where to.
        results: how the cases ended.
        kernels: what they ran on, in the order of the columns.
        complete: whether every case had its turn.
    """
    results = list(results)
    cells = sorted(map(_cell_of, results), key=lambda cell: (cell.group, cell.row))
    notes = [] if complete else [INCOMPLETE]
    notes += [f"Run again: {_name(each)}: {each.again}." for each in results if each.again]
    page = render_overview(cells, path.resolve().parent, kernels, notes=notes)
    path.write_text(page, encoding="utf-8")


def _name(result: Result) -> str:
    return f"{result.case} on {result.kernel}"


def _cell_of(result: Result) -> Cell:
    group, _, row = result.case.partition("::")
    return Cell(
        group=group,
        row=row.removeprefix("test_").replace("_", " "),
        kernel=result.kernel,
        verdict=result.verdict,
        reasons=(result.reason,) if result.reason else (),
        duration_s=result.duration_s,
        artifacts=None if result.artifacts is None else Path(result.artifacts),
    )
