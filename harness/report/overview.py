"""Many runs as one HTML file: a row for each case, a column for each kernel, and each run's story.

The stories are those that the runs' own pages tell; they are inside the file, as far as there is
room, so that it can be sent to somebody who has nothing else.
"""

from __future__ import annotations

import html
import os
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from harness.report.bundle import bundle
from harness.report.page import embed, file_text, fill, frame
from harness.report.record import PAGE
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from harness.report.record import KernelRecord, RunRecord

SIGNS = {
    Verdict.PASS: "\u2713",
    Verdict.FAIL: "\u2717",
    Verdict.CRASH: "\u2717",
    Verdict.INVALID: "?",
    Verdict.SKIP: "\u2013",
    Verdict.KNOWN: "!",
}
LOSSES = {
    "queue_drops": "ring full",
    "dropped": "dropped by XDP",
    "aborted": "aborted",
    "redirect_errors": "redirect failed",
    "prog_drop": "dropped by entry's program",
    "alloc_drops": "no memory for an skb",
    "socket_drops": "socket full",
}
BAD = (Verdict.CRASH, Verdict.FAIL, Verdict.INVALID)
"""What has to be explained, the worst first; what is known or skipped is told by its reason."""
MAX_TOLD = 50
"""Runs whose reasons are told on the overview itself."""
MAX_REASON = 4000
INCOMPLETE = "This is not all: the run was ended before every case had its turn."
NO_KERNEL = "no kernel"
"""The column of what takes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run in the grid.

    Attributes:
        row: of the grid: the case or the scenario.
        kernel: the spec of its column; None for what takes none.
        verdict: how it ended.
        reasons: why it did not pass.
        duration_s: how long it took, in seconds.
        group: of rows that stand together, like the cases of a file; "" when there are none.
        hint: what else is told of it in the grid.
        artifacts: directory of what was kept of it; None when nothing was.
    """

    row: str
    kernel: str | None
    verdict: Verdict
    reasons: tuple[str, ...]
    duration_s: float
    group: str = ""
    hint: str = ""
    artifacts: Path | None = None

    @property
    def name(self) -> str:
        """Of the run, for people."""
        place = ": ".join(filter(None, (self.group, self.row)))
        return f"{place} on {self.kernel}" if self.kernel else place


def cell_of(run: RunRecord) -> Cell:
    """Return the cell of a scenario's run: its books in short are told in it."""
    ledger = run.ledger or {}
    lost = [f"{ledger[key]:,} {name}" for key, name in LOSSES.items() if ledger.get(key)]
    frames = ledger.get("injected")
    return Cell(
        row=run.name,
        kernel=run.kernel.spec,
        verdict=run.verdict,
        reasons=run.reasons,
        duration_s=run.duration_s,
        hint="" if frames is None else ", ".join([f"{frames:,} frames", *lost]),
        artifacts=run.artifacts,
    )


def render_overview(
    cells: Iterable[Cell],
    place: Path,
    kernels: Iterable[KernelRecord] = (),
    *,
    notes: Iterable[str] = (),
) -> str:
    """Return the page of many runs.

    Args:
        cells: the runs; those of one group and of one row stand together.
        place: the directory that the page will be in: runs' own pages are linked from there.
        kernels: what they ran on, in the order of the columns.
        notes: what the reader has to know before anything else.
    """
    runs, known = list(cells), list(kernels)
    counts = Counter(run.verdict for run in runs)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    title = f"{len(runs)} run{'' if len(runs) == 1 else 's'}: {told or 'nothing'}"
    stories = bundle([(run.artifacts, run.verdict) for run in runs])
    extent = [*notes, *stories.notes]
    sections = {
        "Why not": _write_bad(runs, stories.packed),
        "Verdicts": _write_grid(runs, [kernel.spec for kernel in known], stories.packed),
        "Known issues": _write_explained(runs, Verdict.KNOWN),
        "Skipped": _write_explained(runs, Verdict.SKIP),
        "Kernels": _write_kernels(known),
    }
    written = {name: "\n".join(lines) for name, lines in sections.items()}
    there = {name: text for name, text in written.items() if text}
    body = [
        f'<header id="top"><h1>{_text(title)}</h1>',
        *(f'<p class="hint">{_text(note)}</p>' for note in extent),
        '<nav aria-label="on this page">',
        *(f'<a href="#{_slug(name)}">{name}</a>' for name in there),
        "</nav></header>\n<main>",
        *(
            f'<section id="{_slug(name)}">\n<h2>{name}</h2>\n{text}\n</section>'
            for name, text in there.items()
        ),
        "</main>",
    ]
    links = {
        number: Path(os.path.relpath(run.artifacts / PAGE, place)).as_posix()
        for number, run in enumerate(runs)
        if number in stories.packed and run.artifacts
    }
    parts = {
        "BODY": "\n".join(body),
        "RUN": file_text("run.html"),
        "DATA": embed({"stories": stories.packed, "links": links}),
        "DRAW": file_text("page.js"),
        "SCRIPT": file_text("overview.js"),
    }
    return frame(title, fill("overview.html", parts), scripts=True)


def _write_bad(runs: Sequence[Cell], stories: Mapping[int, str]) -> Iterator[str]:
    """Write why runs did not pass, the worst first."""
    bad = [(number, run) for number, run in enumerate(runs) if run.verdict in BAD]
    bad.sort(key=lambda each: BAD.index(each[1].verdict))
    for number, run in bad[:MAX_TOLD]:
        head = f"{_sign(run)} {_text(run.name)}"
        if number in stories:
            head = f'<a href="#run-{number}">{head}</a>'
        items = "".join(f"<li>{_text(reason[:MAX_REASON])}</li>" for reason in run.reasons)
        yield f'<h3>{head}</h3><ol class="reasons">{items}</ol>'
    if len(bad) > MAX_TOLD:
        yield f'<p class="hint">And {len(bad) - MAX_TOLD:,} more: see the grid.</p>'


def _write_grid(
    runs: Sequence[Cell], specs: Sequence[str], stories: Mapping[int, str]
) -> Iterator[str]:
    columns = list(dict.fromkeys([*specs, *(run.kernel or NO_KERNEL for run in runs)]))
    heads = "".join(f'<th scope="col">{_text(spec)}</th>' for spec in columns)
    yield '<div class="bar">'
    yield '<label>find <input id="find" type="search" autocomplete="off"></label>'
    yield '<label><input id="only" type="checkbox"> only rows with something that did not pass'
    yield '</label><span id="found" class="hint" aria-live="polite"></span></div>'
    yield f'<div class="scroll"><table class="grid"><thead><tr><th></th>{heads}</tr></thead>'
    for group, of_group in groupby(enumerate(runs), lambda each: each[1].group):
        yield "<tbody>"
        if group:
            name = f'<th scope="rowgroup" colspan="{len(columns) + 1}">{_text(group)}</th>'
            yield f'<tr class="group">{name}</tr>'
        rows: dict[str, dict[str, list[tuple[int, Cell]]]] = {}
        for number, run in of_group:
            cells = rows.setdefault(run.row, {})
            cells.setdefault(run.kernel or NO_KERNEL, []).append((number, run))
        for row, by_kernel in rows.items():
            told = [
                "<br>".join(_write_cell(*each, stories) for each in by_kernel.get(column, ()))
                for column in columns
            ]
            fine = all(run.verdict not in BAD for cells in by_kernel.values() for _, run in cells)
            marks = "" if fine else ' class="bad"'
            cells_ = "".join(f"<td>{cell}</td>" for cell in told)
            yield f'<tr{marks}><th scope="row">{_text(row)}</th>{cells_}</tr>'
        yield "</tbody>"
    yield "</table></div>"


def _write_cell(number: int, run: Cell, stories: Mapping[int, str]) -> str:
    shown = _sign(run)
    if number in stories:
        label = _text(f"{run.verdict}: {run.name}")
        shown = f'<a href="#run-{number}" aria-label="{label}">{shown}</a>'
    hint = f'<div class="hint">{_text(run.hint)}</div>' if run.hint else ""
    return f'<span title="{run.duration_s:.1f} s">{shown}</span>{hint}'


def _write_explained(runs: Sequence[Cell], verdict: Verdict) -> Iterator[str]:
    """Write each reason for a verdict once, with its kernels."""
    reasons: dict[str, dict[str, None]] = {}
    for run in runs:
        if run.verdict is verdict:
            kernels = reasons.setdefault("\n".join(run.reasons), {})
            kernels[run.kernel or NO_KERNEL] = None
    if reasons:
        yield "<table><tbody>"
        for reason, on in sorted(reasons.items()):
            yield f"<tr><td>{_text(reason)}</td><td>{_text(', '.join(on))}</td></tr>"
        yield "</tbody></table>"


def _write_kernels(kernels: Sequence[KernelRecord]) -> Iterator[str]:
    if kernels:
        yield '<div class="scroll"><table class="facts"><tbody>'
        for kernel in kernels:
            told = f"{kernel.release or 'never resolved'} {kernel.sha256 or ''}"
            yield f'<tr><th scope="row">{_text(kernel.spec)}</th><td>{_text(told)}</td></tr>'
        yield "</tbody></table></div>"


def _sign(run: Cell) -> str:
    return f'<span class="verdict {run.verdict}">{SIGNS[run.verdict]} {run.verdict}</span>'


def _slug(name: str) -> str:
    return f"all-{name.lower().replace(' ', '-')}"


def _text(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode())
