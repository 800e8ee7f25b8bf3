"""Two runs that were kept are compared, and what differs is told."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from harness import cli
from harness.errors import ScenarioError
from harness.report.diff import CONDITIONS, Row, render_diff, show_table, summarize
from harness.report.files import TRACE
from harness.report.perfetto import count_events, write_perfetto
from harness.scenario.diff import COUNTS, compare, read_side
from harness.tests.browser import Browser
from harness.tests.stories import world
from harness.tests.test_scenario_runner import Lab, cache, lab, run  # noqa: F401
from harness.trace.events import CpumapEnqueue, CpumapKthread

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = '<script>alert("x")</script> [bold]\x1b[31m\ud800'


@pytest.fixture
def kept(lab: Lab) -> Path:  # noqa: F811
    steps = ({"do": "delete", "at": 4, "cpu": 1, "errno": "ENOENT"},)
    path: Path = run(lab, seed=9, expect={"dropped": 0}).record.artifacts
    told = json.loads((path / "run.json").read_text())
    told["scenario"]["timeline"] = steps
    (path / "run.json").write_text(json.dumps(told))
    return path


def alter(kept: Path, **change: Any) -> Path:
    """Write a second run that is the first but for some keys, and return its directory."""
    other = kept.parent / "other"
    other.mkdir(exist_ok=True)
    told = json.loads((kept / "run.json").read_text()) | change
    (other / "run.json").write_text(json.dumps(told))
    return other


def told(kept: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((kept / "run.json").read_text())
    return values


def differing(a: Path, b: Path) -> dict[str, tuple[Any, Any, str]]:
    rows = compare(read_side(a), read_side(b))
    return {row.what: (row.a, row.b, row.change) for row in rows if row.differs}


def call(*args: str | Path) -> Any:
    return CliRunner().invoke(cli.cpumap_lab, ["diff", *map(str, args)])


def test_a_run_is_the_same_as_itself(kept: Path) -> None:
    assert differing(kept, kept / "run.json") == {}
    result = call(kept, kept)
    assert result.exit_code == 0
    assert result.stdout.endswith("made from: none; in what came of it: none\n")
    assert "injected" not in result.stdout
    assert "injected" in call(kept, kept, "--all").stdout


def test_another_kernel_comes_first_and_is_no_other_result(kept: Path) -> None:
    before = told(kept)
    recipe = before["recipe"] | {"kernel": {"release": "6.1", "version": "6", "sha256": "e" * 64}}
    recipe["qemu"] = "9.0"
    scenario = before["scenario"] | {"kernel": ["debian:6.1"], "cpus": 8}
    other = alter(kept, recipe=recipe, scenario=scenario)
    rows = compare(read_side(kept), read_side(other))
    assert {row.group for row in rows if row.differs} == {CONDITIONS} == {rows[0].group}
    found = differing(kept, other)
    assert found["kernel"] == ("debian:7.3", "debian:6.1", "")
    assert found["kernel sha256"][1] == "e" * 12
    assert found["QEMU"][1] == "9.0"
    assert found["scenario.cpus"] == (4, 8, "+4")
    assert call(kept, other).exit_code == 0


def test_books_and_cpus(kept: Path) -> None:
    before = told(kept)
    first, second = ({"cpu": cpu, **dict.fromkeys(COUNTS, 24), "dropped": 0} for cpu in (2, 3))
    kept = alter(kept, per_cpu=[first, second]).rename(kept.parent / "first")
    ledger = before["ledger"] | {"queue_drops": 16, "balanced": False}
    lost = second | {"delivered": 8, "dropped": 16}
    other = alter(kept, ledger=ledger, per_cpu=[first, lost, first | {"cpu": 7, "delivered": 0}])
    found = differing(kept, other)
    assert found["queue_drops"] == (0, 16, "+16")
    assert found["balanced"] == ("yes", "no", "")
    assert found["CPU 3: delivered"] == (24, 8, "-16")
    assert found["CPU 3: share of all delivered"] == (50.0, 25.0, "-25.00 pp")
    assert found["CPU 3: share of all dropped"] == (None, 100.0, "")
    assert found["CPU 7: enqueued"] == (0, 24, "+24")
    assert call(kept, other).exit_code == 1


def test_reasons_and_answers(kept: Path) -> None:
    reasons = [
        "timeline[0]: delete of CPU 1: expected ENOENT, found success",
        "dropped: expected 0 frames, found 3",
        "something else",
    ]
    found = differing(kept, alter(kept, verdict="fail", reasons=reasons))
    assert found["verdict"][:2] == ("pass", "fail")
    assert found["timeline[0]: delete"][:2] == ("ENOENT", "success")
    assert found["dropped"][:2] == ("no complaint", "expected 0 frames, found 3")
    assert found["reason 3"][:2] == ("no complaint", "something else")
    found = differing(kept, alter(kept, verdict="crash", reasons=["oops"]))
    assert found["timeline[0]: delete"][:2] == ("ENOENT", None)


def test_events_and_waits_count_for_nothing(kept: Path) -> None:
    story = world(frames=200)
    waits = {"3": {"frames": 4, "p50": 1.5, "p90": 2.0, "p99": 3.0, "max": 3.0}}
    kept = kept.rename(kept.parent / "first")
    (kept / TRACE).write_bytes(write_perfetto(story))
    (kept / "run.json").write_text(json.dumps(told(kept) | {"wait_us": waits}))
    other = alter(kept, wait_us={"3": waits["3"] | {"p50": 3.0}})
    half = replace(story, records=story.records[: len(story.records) // 2])
    (other / TRACE).write_bytes(write_perfetto(half))
    found = differing(kept, other)
    assert found["CPU 3: p50 in µs"] == (1.5, 3.0, "+1.5 (x2.00)")
    assert found["enqueue"][0] == sum(isinstance(each, CpumapEnqueue) for each in story.records)
    assert found["enqueue, per second"][1] > 0
    assert call(kept, other).exit_code == 0


def test_events_are_counted_by_kind() -> None:
    story = world(frames=200, full=0.1)
    counts = count_events(write_perfetto(story))
    assert counts.events["take"] == sum(isinstance(r, CpumapKthread) for r in story.records)
    assert sum(counts.events.values()) == len(story.records)
    times = [record.ts for record in story.records]
    assert counts.span_s == pytest.approx((max(times) - min(times)) / 1e9)


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"\x1f\x8b\x08", "text"])
def test_a_trace_that_is_none(kept: Path, content: bytes | str) -> None:
    other = alter(kept)
    (other / TRACE).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ScenarioError, match="is no trace of cpumap-lab"):
        read_side(other)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 2}, "was written by a newer cpumap-lab"),
        ({"format": None}, "is no run.json of cpumap-lab"),
        ({"per_cpu": [{"cpu": 1}]}, "no whole run.json"),
        ({"per_cpu": 3}, "no whole run.json"),
        ({"reasons": [3]}, "no whole run.json"),
        ({"wait_us": {"x": {}}}, "no whole run.json"),
    ],
)
def test_what_cannot_be_compared(kept: Path, change: dict[str, Any], why: str) -> None:
    for paths in ((kept, alter(kept, **change)), (alter(kept, **change), kept)):
        result = call(*paths)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.count("error: ") == 1
        assert why in result.stderr


def test_what_is_no_run(kept: Path, tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    for path, why in ((tmp_path / "none", "cannot read the run"), (binary, "is no run.json")):
        result = call(kept, path)
        assert result.exit_code == 2
        assert why in result.stderr


def test_json_holds_all_rows(kept: Path) -> None:
    rows = json.loads(call(kept, alter(kept, verdict="crash"), "--json").stdout)
    verdict = next(row for row in rows if row["group"] == "verdict")
    assert (verdict["a"], verdict["b"], verdict["counts"]) == ("pass", "crash", True)
    assert not next(row for row in rows if row["what"] == "injected")["differs"]


def test_colour_only_on_a_terminal() -> None:
    rows = [Row("reasons", "a" * 120, "b" * 120, HOSTILE)]
    for terminal in (False, True):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
        show_table(("x", "y"), rows, every=False, console=console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("\x1b[" in text) is terminal
        assert "\x1b[31m" not in text
        assert ("a" * 120 in text) is not terminal
    assert summarize(rows) == "differences in what it was made from: none; in what came of it: 1"


def test_the_page_in_a_browser(kept: Path, tmp_path: Path) -> None:
    other, page = alter(kept, verdict="fail", reasons=[HOSTILE]), tmp_path / "diff.html"
    assert call(kept, other, "--html", page).exit_code == 1
    html = page.read_text()
    assert "<script" not in html
    assert "http://" not in html
    assert html == render_diff((str(kept), str(other)), compare(read_side(kept), read_side(other)))
    with Browser(tmp_path / "profile") as browser:
        browser.call("Page.navigate", url=page.as_uri())
        browser.wait("document.querySelectorAll('td.lost').length >= 4")
        browser.wait("document.querySelectorAll('tbody tr').length > 20")
        assert browser.complaints == []
