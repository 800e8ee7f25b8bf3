"""Several runs on one page: a row for each scenario, a column for each kernel."""

from __future__ import annotations

import html
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from harness.report.page import file_text
from harness.report.record import PAGE
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from harness.report.record import RunRecord

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
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
"""


def render_overview(records: Iterable[RunRecord], place: Path) -> str:
    """Return the page of several runs.

    Args:
        records: the runs.
        place: the directory that the page will be in: runs' own pages are linked from there.
    """
    runs = list(records)
    counts = Counter(run.verdict for run in runs)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
    title = f"{len(runs)} run{'' if len(runs) == 1 else 's'}: {told or 'nothing'}"
    body = [
        f"<title>{_text(title)}</title>\n<style>\n{file_text('page.css')}</style>\n</head>\n<body>",
        f"<header><h1>{_text(title)}</h1></header>\n<main>\n<section>\n<h2>Verdicts</h2>",
        '<div class="scroll">',
        *_write_grid(runs, place),
        "</div>\n</section>",
        *_write_reasons(runs),
        "</main>\n</body>\n</html>\n",
    ]
    return HEAD + "\n".join(body)


def _write_grid(runs: Sequence[RunRecord], place: Path) -> Iterator[str]:
    specs = list(dict.fromkeys(run.kernel.spec for run in runs))
    cells: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        cells.setdefault((run.name, run.kernel.spec), []).append(run)
    heads = "".join(f'<th scope="col">{_text(spec)}</th>' for spec in specs)
    yield f'<table class="grid"><thead><tr><th></th>{heads}</tr></thead><tbody>'
    for name in dict.fromkeys(run.name for run in runs):
        row = "".join(
            f"<td>{'<br>'.join(_cell(run, place) for run in cells.get((name, spec), ()))}</td>"
            for spec in specs
        )
        yield f'<tr><th scope="row">{_text(name)}</th>{row}</tr>'
    yield "</tbody></table>"


def _cell(run: RunRecord, place: Path) -> str:
    sign = f"{SIGNS[run.verdict]} {run.verdict}"
    shown = f'<span class="verdict {run.verdict}">{_text(sign)}</span>'
    if run.artifacts is not None:
        link = Path(os.path.relpath(run.artifacts / PAGE, place)).as_posix()
        shown = f'<a href="{_text(link)}">{shown}</a>'
    ledger = run.ledger or {}
    lost = [f"{ledger[key]:,} {name}" for key, name in LOSSES.items() if ledger.get(key)]
    frames = ledger.get("injected")
    said = [] if frames is None else [f"{frames:,} frames", *lost]
    return f'{shown}<div class="hint">{_text(", ".join(said))}</div>'


def _write_reasons(runs: Sequence[RunRecord]) -> Iterator[str]:
    told = [run for run in runs if run.reasons]
    if not told:
        return
    yield "<section>\n<h2>Why not</h2>"
    for run in told:
        yield f"<h3>{_text(f'{run.name} on {run.kernel.spec}: {run.verdict}')}</h3>"
        items = "".join(f"<li>{_text(reason)}</li>" for reason in run.reasons)
        yield f'<ol class="reasons">{items}</ol>'
    yield "</section>"


def _text(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode())
