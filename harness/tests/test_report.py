from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.report.record import CpuRecord, KernelRecord, QemuRecord, RunRecord
from harness.report.terminal import show_run
from harness.verdict import Verdict

RECORD = RunRecord(
    name="steer-native",
    verdict=Verdict.PASS,
    reasons=(),
    kernel=KernelRecord("debian:7.3", "7.3.4+deb14-cloud-amd64", "ab" * 32),
    qemu=QemuRecord("10.0.2", "tcg", "multi"),
    ledger={"injected": 4000, "seen": 4000, "queue_drops": 0, "socket": None, "balanced": True},
    per_cpu=(CpuRecord(2, 2000, 0, 2000, 2000), CpuRecord(3, 2000, 8, 1992, 1992)),
    seed=42,
    duration_s=3.21987,
    artifacts=Path("results/steer-native"),
)


def shown(record: RunRecord, *, terminal: bool = False, width: int = 80, **more: object) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        width=width,
    )
    show_run(record, console=console, **more)  # type: ignore[arg-type]
    return stream.getvalue()


def test_json_keys_are_a_contract() -> None:
    said = json.loads(json.dumps(RECORD.to_json()))
    assert said == {
        "name": "steer-native",
        "verdict": "pass",
        "reasons": [],
        "kernel": {
            "spec": "debian:7.3",
            "release": "7.3.4+deb14-cloud-amd64",
            "sha256": "ab" * 32,
        },
        "qemu": {"version": "10.0.2", "accelerator": "tcg", "threads": "multi"},
        "ledger": {
            "injected": 4000,
            "seen": 4000,
            "queue_drops": 0,
            "socket": None,
            "balanced": True,
        },
        "per_cpu": [
            {"cpu": 2, "enqueued": 2000, "dropped": 0, "kthread": 2000, "delivered": 2000},
            {"cpu": 3, "enqueued": 2000, "dropped": 8, "kthread": 1992, "delivered": 1992},
        ],
        "seed": 42,
        "duration_s": 3.22,
        "artifacts": "results/steer-native",
        "hang": None,
    }


def test_json_of_a_run_that_never_was() -> None:
    record = RunRecord(
        name="x",
        verdict=Verdict.INVALID,
        reasons=("no QEMU on this machine",),
        kernel=KernelRecord("debian:7.3"),
        qemu=QemuRecord(),
        ledger=None,
        per_cpu=(),
        seed=1,
        duration_s=0,
        artifacts=None,
    )
    said = record.to_json()
    assert said.keys() == RECORD.to_json().keys()
    assert (said["ledger"], said["artifacts"], said["per_cpu"]) == (None, None, [])
    assert shown(record).splitlines() == [
        "x  debian:7.3",
        "  no QEMU, seed 1, 0.0 s",
        "INVALID: no QEMU on this machine",
    ]


def test_plain_text() -> None:
    text = shown(RECORD, socket={2: 2000, 3: 1990})
    assert text.isascii()
    assert "\x1b" not in text
    assert [line.split() for line in text.splitlines()] == [
        ["steer-native", "7.3.4+deb14-cloud-amd64", "(debian:7.3)"],
        ["CPU", "enqueued", "dropped", "kthread", "stack", "socket"],
        ["2", "2,000", "0", "2,000", "2,000", "2,000"],
        ["3", "2,000", "8", "1,992", "1,992", "1,990"],
        ["all", "4,000", "8", "3,992", "3,992", "3,990"],
        ["books", "balanced:", "injected", "4,000,", "seen", "4,000"],
        ["QEMU", "10.0.2", "(tcg,", "multi", "thread),", "seed", "42,", "3.2", "s"],
        ["PASS"],
        ["report:", "results/steer-native/report.html"],
    ]


def test_no_socket_no_column() -> None:
    assert "socket" not in shown(RECORD)


def test_failure_with_its_reasons() -> None:
    long = "delivered, CPU 2: 1 missing: 16 passed on [frames 5] " + "and so on " * 20
    record = replace(RECORD, verdict=Verdict.FAIL, reasons=(long, "second"))
    lines = shown(record, imbalances=(long, "taken, map 5: 3 missing [bold]")).splitlines()
    assert f"FAIL: {long}".rstrip() in [line.rstrip() for line in lines]
    assert "      second" in lines
    assert "  - taken, map 5: 3 missing [bold]" in lines
    assert sum(long.rstrip() in line for line in lines) == 1


def test_colours_at_a_terminal() -> None:
    text = shown(RECORD, terminal=True)
    assert "\x1b[1;32mPASS" in text
    assert "─" in text
