from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.report import files
from harness.report.expected import compare
from harness.report.files import make_files
from harness.report.story import Story
from harness.tests.stories import OOPS, busy, make_record, world
from harness.trace.events import Event
from harness.verdict import Verdict

if TYPE_CHECKING:
    import pytest

FOR_A_FAILURE = {"why.txt", "trace.jsonl", "qemu.txt", "repeat.txt"}


def test_a_failure_has_all_that_one_needs_to_find_it() -> None:
    made, passed = make_files(world(dmesg=OOPS)), make_files(world(dmesg="Linux version 7.3"))
    assert made.keys() - passed.keys() == FOR_A_FAILURE
    assert str(made["why.txt"]).startswith("verdict: crash\noops: BUG: kernel NULL pointer")
    assert made["repeat.txt"] == "cpumap-lab run results/steer/scenario.yaml\n"


def test_why_names_what_was_expected_too() -> None:
    story = world(dmesg=OOPS, full=0.5)
    assert story.books is not None
    assert (
        f"delivered: expected 48, found {story.books.delivered}\n" in make_files(story)["why.txt"]
    )


def test_expectations_stand_beside_what_was_found() -> None:
    books = world(full=0.3).books
    assert books is not None
    per_cpu = {row.cpu: row.delivered for row in books.per_cpu}
    expect = {
        "delivered": {2: per_cpu[2], 3: 99},
        "dropped": (0, 48),
        "aborted": 3,
        "shares": {2: 0.5},
        "within": 0.05,
        "in_order": True,
    }
    reasons = [
        f"delivered on CPU 3: expected 99 frames, found {per_cpu[3]}",
        "aborted: expected 3 frames, found 0",
        "share of CPU 2: expected 0.5, found 0.4",
    ]
    rows = [(row.what, row.expected, row.found, row.met) for row in compare(expect, books, reasons)]
    assert rows == [
        ("delivered on CPU 2", str(per_cpu[2]), str(per_cpu[2]), True),
        ("delivered on CPU 3", "99", str(per_cpu[3]), False),
        ("dropped", "0 to 48", str(books.queue_drops), True),
        ("aborted", "3", "0", False),
        ("shares", "2: 0.5", "share of CPU 2: expected 0.5, found 0.4", False),
        ("in_order", "yes", "yes", True),
    ]
    assert compare(expect, None, reasons) == []


def test_the_trace_by_line() -> None:
    story = replace(busy(50), record=make_record(None, verdict=Verdict.FAIL))
    blob = Event("odd", 1, 2, {"bytes": b"\x01\xff"})
    lines = str(make_files(replace(story, records=[*story.records, blob]))["trace.jsonl"])
    told = [json.loads(line) for line in lines.splitlines()]
    assert len(told) == 51
    assert {line["event"] for line in told[:-1]} == {"xdp_cpumap_enqueue", "xdp_cpumap_kthread"}
    assert [line["ts"] for line in told[:-1]] == [record.ts for record in story.records]
    assert told[-1] == {"event": "odd", "cpu": 1, "ts": 2, "bytes": "01ff"}


def test_a_trace_beyond_measure_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINES_BYTES", 1000)
    story = replace(busy(50), record=make_record(None, verdict=Verdict.FAIL))
    lines = str(make_files(story)["trace.jsonl"]).splitlines()
    assert json.loads(lines[-1]) == {"left_out": 50 - (len(lines) - 1)}
    assert len("\n".join(lines)) < 1100


def test_a_run_that_never_was_has_neither_trace_nor_frames() -> None:
    made = make_files(Story(record=make_record(None)))
    assert made.keys() == {"report.html", "run.json", "console.log"}
