"""The files that a run leaves behind: what a reader opens, and what a failure needs besides."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.report.page import render
from harness.report.pcap import write_delivered, write_injected
from harness.report.perfetto import write_perfetto
from harness.report.record import PAGE
from harness.trace.events import Event, event_name
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.report.story import Story
    from harness.trace.events import Record

MAX_LINES_BYTES = 16 << 20
TRACE = "trace.pftrace.gz"


def make_files(story: Story) -> dict[str, str | bytes]:
    """Return the content of the files of a run, by name."""
    files: dict[str, str | bytes] = {
        PAGE: render(story),
        "run.json": json.dumps(story.record.to_json(), indent=1),
        "console.log": story.console,
    }
    if story.books is not None:
        files["ledger.json"] = json.dumps(story.books.to_json(), indent=1)
    if story.dmesg:  # a dying guest cannot be asked
        files["dmesg.txt"] = story.dmesg
    if story.records:
        files[TRACE] = write_perfetto(story)
    if story.frames:
        files["injected.pcap"] = write_injected(story)
        files["delivered.pcap"] = write_delivered(story)
    if story.record.verdict not in (Verdict.PASS, Verdict.SKIP):
        files |= {
            "why.txt": "".join(f"{line}\n" for line in _tell_why(story)),
            "trace.jsonl": "".join(_tell_trace(story)),
            "qemu.txt": "".join(f"{argument}\n" for argument in story.argv),
            "repeat.txt": f"{story.repeat}\n",
        }
        if story.hang:
            files["hang.txt"] = story.hang
    return files


def _tell_why(story: Story) -> Iterator[str]:
    """Yield the verdict, its reasons, and every difference from what was expected."""
    yield f"verdict: {story.record.verdict}"
    yield from story.record.reasons
    told = set(story.record.reasons)
    for item in story.books.imbalances if story.books else ():
        if str(item) not in told:
            yield str(item)
    for each in story.expectations:
        if not each.met:
            yield f"{each.what}: expected {each.expected}, found {each.found}"


def _tell_trace(story: Story) -> Iterator[str]:
    """Yield the records as JSON, one a line."""
    size = 0
    for number, record in enumerate(story.records):
        line = json.dumps(_tell_record(record), default=bytes.hex) + "\n"
        size += len(line)
        if size > MAX_LINES_BYTES:
            yield json.dumps({"left_out": len(story.records) - number}) + "\n"
            return
        yield line


def _tell_record(record: Record) -> dict[str, Any]:
    fields = dict(record.fields) if isinstance(record, Event) else asdict(record)
    return {"event": event_name(record), "cpu": record.cpu, "ts": record.ts, **fields}
