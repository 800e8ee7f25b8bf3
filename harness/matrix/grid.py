"""The grid: a row per file of cases, a column per kernel, and below it what did not pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from harness.report.terminal import STYLES
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from harness.matrix.results import Result
    from harness.report.record import KernelRecord

MARKS = {
    Verdict.PASS: "",
    Verdict.FAIL: "F",
    Verdict.CRASH: "C",
    Verdict.INVALID: "I",
    Verdict.KNOWN: "k",
    Verdict.SKIP: "s",
}
"""What stands behind a count in a cell, in this order."""
BAD = (Verdict.FAIL, Verdict.CRASH, Verdict.INVALID)
LEGEND = "passed; F failed, C crashed, I invalid, k known issue, s skipped"


def show_grid(
    console: Console, results: Sequence[Result], specs: Sequence[str], *, by_case: bool = False
) -> None:
    """Print the grid, each failure with its reason, each reason to skip with its kernels.

    Args:
        console: where to.
        results: how the cases ended.
        specs: the kernels, in the order of the columns.
        by_case: a row per case instead of one per file.
    """
    table = Table("", box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for spec in specs:
        table.add_column(spec.removeprefix("debian:"), justify="right", no_wrap=True)
    cells: dict[str, dict[str | None, Counter[Verdict]]] = {}
    for result in results:
        row = cells.setdefault(_row_of(result.case, by_case=by_case), {})
        row.setdefault(result.kernel, Counter())[result.verdict] += 1
    for name in sorted(cells):
        table.add_row(name, *(_cell(cells[name].get(spec)) for spec in specs))
    console.print(table)
    console.print(LEGEND, style="dim", soft_wrap=True)
    _show_reasons(console, results, specs)


def summarize(results: Sequence[Result], duration_s: float) -> str:
    """Return how many cases ended how, in a line."""
    counts = Counter(result.verdict for result in results)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in MARKS if counts[verdict])
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{len(results)} cases in {minutes}:{seconds:02} min: {told or 'nothing was run'}"


def to_json(
    results: Iterable[Result], kernels: Iterable[KernelRecord], *, complete: bool
) -> dict[str, Any]:
    """Return the matrix as JSON-able values. These keys are a public contract."""
    rows = [asdict(result) for result in results]
    for row in rows:
        row |= {"verdict": row["verdict"].value, "duration_s": round(row["duration_s"], 3)}
    return {"kernels": [asdict(each) for each in kernels], "rows": rows, "complete": complete}


def _row_of(case: str, *, by_case: bool) -> str:
    path, _, function = case.removeprefix("cases/").partition("::")
    name = path.removesuffix(".py").removeprefix("test_")
    return f"{name}: {function.removeprefix('test_')}" if by_case else name


def _cell(counts: Counter[Verdict] | None) -> Text:
    if counts is None:
        return Text("-", style="dim")
    cell = Text()
    for verdict, mark in MARKS.items():
        if counts[verdict]:
            style = STYLES[verdict] if verdict is not Verdict.PASS else ""
            cell.append(" " if cell else "")
            cell.append(f"{counts[verdict]}{mark}", style=style)
    return cell


def _show_reasons(console: Console, results: Sequence[Result], specs: Sequence[str]) -> None:
    for result in results:
        if result.verdict in BAD:
            head = Text(f"\n{result.verdict.value.upper()} ", style=STYLES[result.verdict])
            head.append(f"{result.case} on {result.kernel or 'no kernel'}", style="bold")
            console.print(head, soft_wrap=True)
            for line in result.reason.splitlines():
                console.print(Text(f"  {line}"), soft_wrap=True)
    for verdict in (Verdict.KNOWN, Verdict.SKIP):
        kernels: dict[str, set[str | None]] = {}
        for result in results:
            if result.verdict is verdict:
                kernels.setdefault(result.reason, set()).add(result.kernel)
        for number, (reason, on) in enumerate(sorted(kernels.items())):
            names = " ".join(s.removeprefix("debian:") for s in specs if s in on)
            head = Text("" if number else "\n").append(f"{verdict} ", style=STYLES[verdict])
            console.print(head.append(f"{reason} [{names}]", style="default"), soft_wrap=True)
