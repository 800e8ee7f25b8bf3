"""A run as one HTML file: it opens from disk, asks no network, and draws itself."""

from __future__ import annotations

import html
import json
import shlex
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.machine.splats import find_splats
from harness.report.depth import depths
from harness.report.flow import COLUMNS, draw
from harness.trace.events import (
    CpumapEnqueue,
    CpumapKthread,
    Event,
    XdpDevmapXmit,
    XdpException,
    XdpRedirect,
    XdpRedirectErr,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.report.story import Story
    from harness.trace.books import Books
    from harness.trace.events import Record

MAX_EVENTS = 300_000
MAX_TEXT = 512 << 10
"""Characters of the console, and of dmesg; of what is longer, the end is shown."""
DATA = '<script type="application/json" id="data">'
"""What stands in page.html before what a page shows."""
KINDS: dict[type[Record], int] = {
    CpumapEnqueue: 0,
    CpumapKthread: 1,
    XdpException: 2,
    XdpRedirectErr: 3,
    XdpRedirect: 4,
    XdpDevmapXmit: 5,
    Event: 6,
}
"""As `KINDS` in page.js."""


def render(story: Story) -> str:
    """Return the page of a run."""
    record = story.record
    title = (
        f"{record.verdict.value}: {record.name} on {record.kernel.release or record.kernel.spec}"
    )
    parts = {
        "RUN": file_text("run.html"),
        "DATA": embed(tell(story)),
        "SCRIPT": file_text("page.js"),
    }
    return frame(title, fill("page.html", parts), scripts=True)


def frame(title: str, body: str, *, scripts: bool) -> str:
    """Return a whole page in our style; it may run its own scripts or none, and fetches nothing."""
    parts = {
        "SCRIPTS": "script-src 'unsafe-inline'; " if scripts else "",
        "TITLE": html.escape(title),
        "STYLE": file_text("page.css"),
        "BODY": body,
    }
    return fill("frame.html", parts)


def fill(name: str, parts: Mapping[str, str]) -> str:
    """Return a file beside this one with its places, like @TITLE@, filled in their order."""
    page = file_text(name)
    pieces = []
    for place, text in parts.items():  # what is put in is never looked at for what to put in
        before, _, page = page.partition(f"@{place}@")
        pieces += [before, text]
    return "".join((*pieces, page))


def read_told(page: str) -> dict[str, Any]:
    """Return what a page of `render` shows, as `tell` told it.

    Raises:
        ValueError: it is no such page.
    """
    _, start, rest = page.partition(DATA)
    told = json.loads(rest.partition("</script>")[0] if start else "")
    if not isinstance(told, dict) or not isinstance(told.get("events"), dict):
        raise ValueError("no story is told in it")
    return told


def embed(data: Any) -> str:
    """Return JSON that no HTML parser takes for the end of its script element."""
    text = json.dumps(data, separators=(",", ":"))  # ASCII: U+2028 is escaped as well
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def tell(story: Story) -> dict[str, Any]:
    """Return all that the page shows, as JSON-able values."""
    events, rings = _tell_events(story)
    return {
        "record": story.record.to_json(),
        "picture": _tell_picture(story.books),
        "books": _tell_books(story.books),
        "waits": {cpu: asdict(waits) for cpu, waits in story.waits.items()},
        "expectations": [asdict(each) for each in story.expectations],
        "rings": rings,
        "events": events,
        "texts": [_tell_text("console", story.console), _tell_text("dmesg", story.dmesg)],
        "facts": list(_tell_facts(story)),
    }


def _tell_picture(books: Books | None) -> dict[str, Any] | None:
    if books is None:
        return None
    picture = draw(books)
    return {
        "columns": COLUMNS,
        "nodes": [asdict(node) for node in picture.nodes],
        "links": [asdict(link) for link in picture.links],
    }


def _tell_books(books: Books | None) -> dict[str, Any] | None:
    if books is None:
        return None
    return {
        "accounts": books.accounts(),
        "balanced": books.balanced,
        "per_cpu": [asdict(row) for row in books.per_cpu],
        "laws": [asdict(law) for law in books.laws],
        "imbalances": [str(item) for item in books.imbalances],
    }


def _tell_events(story: Story) -> tuple[dict[str, Any], list[dict[str, int]]]:
    """Return the events by column, times as the ns since the one before, and the rings."""
    shown = story.records[:MAX_EVENTS]
    known = {(ring.map_id, ring.cpu): ring.qsize for ring in story.rings}
    followed = list(depths(shown, story.rings))
    for ring, _ in followed:
        if ring is not None:
            known.setdefault(ring, 0)  # one that nobody told of
    numbers = {ring: number for number, ring in enumerate(sorted(known))}
    peaks = dict.fromkeys(known, 0)
    columns: dict[str, list[int]] = {name: [] for name in ("dt", "k", "c", "r", "p", "d", "q", "s")}
    more: dict[int, dict[str, Any]] = {}
    before = start = shown[0].ts if shown else 0
    for place, (record, (ring, depth)) in enumerate(zip(shown, followed, strict=True)):
        frames, drops, sched = _weigh(record)
        values = (
            record.ts - before,
            KINDS[type(record)],
            record.cpu,
            -1 if ring is None else numbers[ring],
            frames,
            drops,
            depth or 0,
            sched,
        )
        before = record.ts
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
        if ring is not None:
            peaks[ring] = max(peaks[ring], depth or 0)
        if extra := _tell_more(record):
            more[place] = extra
    rings = [
        {"map": map_id, "cpu": cpu, "qsize": known[map_id, cpu], "peak": peaks[map_id, cpu]}
        for map_id, cpu in sorted(known)
    ]
    return {"total": len(story.records), "t0": start, **columns, "x": more}, rings


def _weigh(record: Record) -> tuple[int, int, int]:
    match record:
        case CpumapEnqueue():
            return record.offered, record.drops, 0
        case CpumapKthread():
            return record.processed, record.drops, record.sched
    return 0, 0, 0


def _tell_more(record: Record) -> dict[str, Any]:
    """Return what the columns do not say of a record."""
    match record:
        case CpumapEnqueue():
            return {} if record.processed == record.offered else {"processed": record.processed}
        case CpumapKthread():
            names = ("drops", "xdp_pass", "xdp_drop", "xdp_redirect")
            return {name: getattr(record, name) for name in names if getattr(record, name)}
        case Event():
            fields = {k: str(v) for k, v in record.fields.items() if not k.startswith("common_")}
            return {"name": record.name, **fields}
    return {name: value for name, value in asdict(record).items() if name not in ("cpu", "ts")}


def _tell_text(name: str, text: str) -> dict[str, Any]:
    text = text.replace("\r", "")
    cut = max(len(text) - MAX_TEXT, 0)
    text, splats, at = text[cut:], [], 0
    for splat in find_splats(text):
        start = text.find(splat.text, at)
        if start >= 0:
            at = min(start + len(splat.text) + 1, len(text))  # with the end of its last line
            splats.append({"kind": splat.kind, "title": splat.title, "start": start, "end": at})
    return {"name": name, "text": text, "cut": cut, "splats": splats}


def _tell_facts(story: Story) -> Sequence[tuple[str, str, bool]]:
    """Return name, value, and whether one may want to copy it."""
    record = story.record
    qemu = record.qemu
    facts = [
        ("again", story.repeat, True),
        (
            "kernel",
            " ".join(filter(None, (record.kernel.release, f"({record.kernel.spec})"))),
            False,
        ),
        ("sha256", record.kernel.sha256 or "", False),
        ("QEMU", ", ".join(filter(None, (qemu.version, qemu.accelerator, qemu.threads))), False),
        ("seed", str(record.seed), False),
        ("took", f"{record.duration_s:.1f} s", False),
        ("command line", shlex.join(story.argv), True),
    ]
    return [fact for fact in facts if fact[1]]


@cache
def file_text(name: str) -> str:
    """Return what stands in a file beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
