from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from harness.report.overview import render_overview
from harness.tests.browser import Browser
from harness.tests.test_junit_ktap import HOSTILE, RUNS, run
from harness.verdict import Verdict

PLACE = Path("/srv/results")


def test_a_row_for_each_scenario_and_a_column_for_each_kernel() -> None:
    html = render_overview(RUNS, PLACE)
    assert "<title>7 runs: 2 pass, 1 fail, 1 crash, 1 invalid, 1 skip, 1 known</title>" in html
    heads = re.findall(r'<th scope="(row|col)">(.*?)</th>', html)
    assert heads == [
        ("col", "debian:7.3"),
        ("col", "debian:6.1"),
        ("col", "debian:5.10"),
        ("row", "steer"),
        ("row", "generic"),
        ("row", "hot # replace"),
        ("row", "known"),
    ]
    assert html.count("<li>because crash</li>") == 1


def test_pages_are_linked_from_where_the_overview_is() -> None:
    passed = replace(run(Verdict.PASS), artifacts=PLACE / "runs" / "a")
    assert 'href="runs/a/report.html"' in render_overview([passed], PLACE)
    assert 'href="../results/runs/a/report.html"' in render_overview([passed], PLACE / "../x")


def test_losses_are_named() -> None:
    lossy = replace(run(Verdict.PASS), ledger={"injected": 4000, "queue_drops": 1234, "tx": 3})
    assert "4,000 frames, 1,234 ring full</div>" in render_overview([lossy], PLACE)


def test_nothing_that_is_told_is_markup() -> None:
    html = render_overview([HOSTILE], PLACE)
    assert "</testsuite>" not in html
    assert "&lt;/testsuite&gt;" in html


def test_in_a_browser(tmp_path: Path) -> None:
    path = tmp_path / "all.html"
    page = tmp_path / "a" / "report.html"
    page.parent.mkdir()
    page.write_text("<title>that one</title>")
    runs = [replace(RUNS[0], artifacts=page.parent), *RUNS[1:]]
    path.write_text(render_overview(runs, tmp_path))
    with Browser(tmp_path / "profile") as browser:
        browser.call("Page.navigate", url=path.as_uri())
        browser.wait("document.querySelectorAll('.verdict').length === 7")
        browser.click_on(".grid a")
        browser.wait("document.title === 'that one'")
        assert browser.complaints == []
