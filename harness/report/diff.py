"""The rows of a comparison of two runs, and how they are shown: a table, a page, JSON."""

from __future__ import annotations

import html
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.report.page import frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Value = str | int | float | None
CONDITIONS = "what it was made from"
TIMING = ("events", "waits in rings")
"""Groups that are never twice the same: they are shown, and count for nothing."""
NOTHING = "\N{EN DASH}"
WIDE = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was looked at in both runs.

    Attributes:
        group: of rows that belong together.
        what: it is, with its unit.
        a: in the first run; None when it is not known there.
        b: in the second.
        unit: "%" for shares, whose change is told in percentage points; else "".
    """

    group: str
    what: str
    a: Value
    b: Value
    unit: str = ""

    @property
    def differs(self) -> bool:
        """Whether it was not the same."""
        return self.a != self.b

    @property
    def counts(self) -> bool:
        """Whether the runs came to something else by it."""
        return self.differs and self.group != CONDITIONS and self.group not in TIMING

    @property
    def change(self) -> str:
        """From the first to the second, of numbers."""
        if not self.differs or not _is_number(self.a) or not _is_number(self.b):
            return ""
        step = self.b - self.a  # type: ignore[operator]
        if self.unit:
            return f"{step:+,.2f} pp"
        if self.group not in TIMING:
            return f"{step:+,}" if isinstance(step, int) else f"{step:+g}"
        ratio = f" (x{self.b / self.a:.2f})" if self.a else ""  # type: ignore[operator]
        return f"{step:+,.1f}{ratio}" if isinstance(step, float) else f"{step:+,}{ratio}"

    def show(self, value: Value) -> str:
        """Return one of its values for people."""
        if value is None:
            return NOTHING
        if isinstance(value, float):
            if self.unit:
                return f"{value:,.2f}{self.unit}"
            return f"{value:,.1f}" if self.group in TIMING else f"{value:g}"
        return f"{value:,}" if _is_number(value) else _clean(str(value))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        told = {name: getattr(self, name) for name in ("group", "what", "a", "b", "unit", "change")}
        return {**told, "differs": self.differs, "counts": self.counts}


def summarize(rows: Iterable[Row]) -> str:
    """Return in one sentence what came of the comparison."""
    rows = list(rows)
    made = sum(row.differs for row in rows if row.group == CONDITIONS)
    came = sum(row.counts for row in rows)
    first = f"differences in {CONDITIONS}: {made or 'none'}"
    return f"{first}; in what came of it: {came or 'none'}"


def show_table(
    names: tuple[str, str], rows: Sequence[Row], *, every: bool, console: Console | None = None
) -> None:
    """Print the rows that differ, or `every` one, and a sentence on all.

    Args:
        names: of the runs.
        rows: of the comparison.
        every: show what was the same as well.
        console: where to; standard output by default.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = WIDE  # a line of a file or a pipe must stay one for whoever greps it
    for name, run in zip("AB", names, strict=True):
        console.print(Text(_clean(f"{name}: {run}")), soft_wrap=True)
    for group, shown in _groups(rows, every=every):
        table = Table(
            box=box.SIMPLE_HEAD if console.is_terminal else None,
            pad_edge=False,
            title=escape(group),
            title_justify="left",
            title_style="bold",
        )
        for column in ("", "A", "B", "change"):
            table.add_column(column, overflow="fold")
        for row in shown:
            cells = (_clean(row.what), row.show(row.a), row.show(row.b), row.change)
            table.add_row(*map(Text, cells), style="yellow" if row.counts else "")
        console.print()
        console.print(table)
    console.print(Text(f"\n{summarize(rows)}"), soft_wrap=True)


def render_diff(names: tuple[str, str], rows: Sequence[Row]) -> str:
    """Return the page of a comparison: what differs first, all rows below it."""
    body = [
        f"<header><h1>{_text(summarize(rows))}</h1>",
        *(f"<p><b>{name}</b> {_text(run)}</p>" for name, run in zip("AB", names, strict=True)),
        "</header>\n<main>",
        *_write_groups(rows, every=False),
        "<section><details><summary>All that was compared</summary>",
        *_write_groups(rows, every=True),
        "</details></section>\n</main>",
    ]
    return frame(" / ".join(names), "\n".join([*body, ""]), scripts=False)


def _write_groups(rows: Sequence[Row], *, every: bool) -> Iterator[str]:
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("", "A", "B", "change"))
    for group, shown in _groups(rows, every=every):
        yield f'<section>\n<h2>{_text(group)}</h2>\n<div class="scroll">'
        yield f"<table><thead><tr>{heads}</tr></thead><tbody>"
        for row in shown:
            lost = ' class="lost"' if row.counts else ""
            cells = "".join(f"<td>{_text(row.show(value))}</td>" for value in (row.a, row.b))
            change = f"<td{lost}>{_text(row.change or ('differs' if row.differs else ''))}</td>"
            yield f'<tr><th scope="row">{_text(row.what)}</th>{cells}{change}</tr>'
        yield "</tbody></table></div></section>"


def _groups(rows: Iterable[Row], *, every: bool) -> Iterator[tuple[str, list[Row]]]:
    for group, shown in groupby((r for r in rows if every or r.differs), attrgetter("group")):
        yield group, list(shown)


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _clean(text: str) -> str:
    """Return what was read from a file without what would move a cursor or cannot be encoded."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def _text(text: str) -> str:
    return html.escape(_clean(text))
