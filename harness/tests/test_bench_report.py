"""The bench: what people and programs are told."""

from __future__ import annotations

import json

from harness.bench.report import BOOT, Findings
from harness.tests.benches import findings, series, told


def test_json_says_the_three_figures_and_what_they_come_from() -> None:
    found = json.loads(json.dumps(findings().to_json()))
    assert found["clone_speedup"] == 20.0
    assert found["boot_speedup_over_virtme_ng"] == 4.0
    assert found["boot_speedup_over_virtme_ng_qemu_alone"] == 3.8
    assert found["frames_per_s"] == 45678
    assert found["seconds"]["clone"] == {
        "median": 0.2,
        "min": 0.1,
        "max": 0.4,
        "count": 3,
        "failures": 0,
    }
    assert found["traffic"]["limit"]["who"] == "QEMU"
    assert found["virtme_ng"] == "measured"


def test_json_has_the_same_keys_when_nothing_was_measured() -> None:
    def shape(value: object) -> object:
        return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else None

    empty = Findings({"kernels": [{"release": "7.3.4"}]}, 1000, peer="not installed").to_json()
    whole = findings().to_json()
    assert empty.keys() == whole.keys()
    assert shape(empty["seconds"]) == shape(whole["seconds"])
    for figure in ("clone_speedup", "boot_speedup_over_virtme_ng", "frames_per_s"):
        assert empty[figure] is None
    assert empty["virtme_ng"] == "not installed"


def test_people_are_told_figures_ratios_and_the_limit() -> None:
    text = told(findings())
    assert "20.0 times as fast as the cold boot" in text
    assert "4.0 times as long as ours" in text
    assert "45,678" in text
    assert "limit: QEMU: QEMU's main loop has no time to spare" in text


def test_people_are_told_of_failures_and_of_what_is_left_out() -> None:
    found = findings()
    found.peer = "not installed"
    found.boots.run(dict([series(BOOT, -1)]), 1)
    text = told(found)
    assert "virtme-ng: not installed" in text
    assert "failed: cold_boot, run 1: QemuFailed: QEMU ended\n" in text
