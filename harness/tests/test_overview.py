"""The page of many runs: its grid, the stories inside it, and what a real browser makes of it."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.matrix.page import write_page
from harness.matrix.results import Result
from harness.report import bundle as packing
from harness.report import page
from harness.report.bundle import bundle
from harness.report.overview import INCOMPLETE, Cell, cell_of, render_overview
from harness.report.record import PAGE, KernelRecord
from harness.tests.browser import Browser
from harness.tests.stories import OOPS, busy, world
from harness.tests.test_junit_ktap import HOSTILE, RUNS, run
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.report.story import Story

PLACE = Path("/srv/results")
CELLS = [cell_of(run) for run in RUNS]


def keep(story: Story, directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / PAGE).write_text(page.render(story), encoding="utf-8")
    return directory


def test_a_row_for_each_scenario_and_a_column_for_each_kernel() -> None:
    html = render_overview(CELLS, PLACE)
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


def test_losses_are_named() -> None:
    lossy = replace(run(Verdict.PASS), ledger={"injected": 4000, "queue_drops": 1234, "tx": 3})
    assert "4,000 frames, 1,234 ring full</div>" in render_overview([cell_of(lossy)], PLACE)


def test_nothing_that_is_told_is_markup() -> None:
    html = render_overview([cell_of(HOSTILE)], PLACE)
    assert "</testsuite>" not in html
    assert "&lt;/testsuite&gt;" in html


def unpack(packed: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_what_did_not_pass_is_told_in_full(tmp_path: Path) -> None:
    passed, failed = keep(world(), tmp_path / "a"), keep(busy(50), tmp_path / "b")
    told = bundle([(passed, Verdict.PASS), (None, Verdict.FAIL), (failed, Verdict.FAIL)])
    assert sorted(told.packed) == [0, 2]
    brief, full = unpack(told.packed[0]), unpack(told.packed[2])
    assert full == page.read_told(page.render(busy(50)))
    assert (brief["brief"], brief["events"]["k"], brief["texts"]) == ("it passed", [], [])
    assert brief["books"]["accounts"]["injected"] == 48
    assert told.notes == [
        "Runs whose story is in this page: in full 1, in brief (without events and texts) 1. "
        "Follow a verdict to read it."
    ]


def test_a_page_has_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = keep(busy(2000), tmp_path / "a")
    runs = [(failed, Verdict.FAIL)] * 3
    one = len(bundle(runs[:1]).packed[0])
    monkeypatch.setattr(packing, "FULL_BYTES", one)
    monkeypatch.setattr(packing, "MAX_BYTES", one + 20_000)
    told = bundle(runs)
    assert len(unpack(told.packed[0])["events"]["k"]) == 2000
    assert "there is no room" in unpack(told.packed[1])["brief"]
    monkeypatch.setattr(packing, "MAX_BYTES", one)
    told = bundle(runs)
    assert (list(told.packed), told.notes[1:]) == (
        [0],
        ["Runs for whose story there was no room: 2."],
    )


@pytest.mark.parametrize("left", [None, "", "<p>", f"{page.DATA}{{", f"{page.DATA}3</script>"])
def test_what_is_no_page_any_more_is_left_out(tmp_path: Path, left: str | None) -> None:
    if left is not None:
        (tmp_path / PAGE).write_text(left)
    told = bundle([(tmp_path, Verdict.FAIL)])
    assert told.packed == {}
    assert told.notes == ["Runs of which nothing is left: 1."]


def test_cases_of_a_file_stand_together(tmp_path: Path) -> None:
    results = [
        Result("cases/test_b.py::test_one_more", "debian:6.1", Verdict.PASS, "", 0.5, None, "int3"),
        Result("cases/test_a.py::test_x[3]", None, Verdict.SKIP, "no such thing", 0.5),
        Result("cases/test_b.py::test_one_more", "debian:7.3", Verdict.FAIL, "7 != 8", 0.5),
        Result("cases/test_b.py::test_less", "debian:7.3", Verdict.KNOWN, "CVE", 0.5),
    ]
    kernels = [KernelRecord("debian:6.1", "6.1.9", "ab" * 32), KernelRecord("debian:7.3")]
    path = tmp_path / "all.html"
    write_page(path, results, kernels, complete=False)
    html = path.read_text()
    assert INCOMPLETE in html
    assert "Run again: cases/test_b.py::test_one_more on debian:6.1: int3." in html
    heads = re.findall(r'<th scope="(?:row|col|rowgroup)"[^>]*>(.*?)</th>', html)
    assert heads[:8] == [
        *("debian:6.1", "debian:7.3", "no kernel"),
        *("cases/test_a.py", "x[3]", "cases/test_b.py", "less", "one more"),
    ]
    assert "<td>CVE</td><td>debian:7.3</td>" in html
    assert "<td>no such thing</td><td>no kernel</td>" in html
    assert "6.1.9 " + "ab" * 32 in html
    write_page(path, [], [], complete=True)
    assert INCOMPLETE not in path.read_text()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Browser]:
    """Open a matrix of two cases on two kernels: a pass and a crash each, and an unkept pass."""
    crash = keep(world(frames=300, dmesg=OOPS), tmp_path / "runs" / "crash")
    fine = keep(world(), tmp_path / "runs" / "fine")

    def cell(row: str, kernel: str, verdict: Verdict, of: Path | None) -> Cell:
        reasons = () if verdict is Verdict.PASS else ("BUG: oops",)
        return Cell(
            group="cases/test_steer.py",
            row=row,
            kernel=kernel,
            verdict=verdict,
            reasons=reasons,
            duration_s=1.5,
            artifacts=of,
        )

    cells = [
        cell("steer", "debian:6.1", Verdict.PASS, fine),
        cell("steer", "debian:7.3", Verdict.CRASH, crash),
        cell("replace", "debian:6.1", Verdict.CRASH, crash),
        cell("replace", "debian:7.3", Verdict.PASS, fine),
        cell("hold", "debian:7.3", Verdict.PASS, None),
    ]
    kernels = [KernelRecord(f"debian:{of}", f"{of}.9", "ab" * 32) for of in ("6.1", "7.3")]
    path = tmp_path / "all.html"
    path.write_text(render_overview(cells, tmp_path, kernels))
    browser.emulate()
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(path)
    yield browser
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("file://")] == []


def told(browser: Browser, number: int) -> None:
    """Wait for the story of a run."""
    browser.wait(f"document.documentElement.dataset.open === '{number}'")
    browser.settle()


def back(browser: Browser) -> None:
    browser.wait("document.documentElement.dataset.open === undefined")


def test_a_story_is_told_in_the_page(opened: Browser) -> None:
    assert "5 runs: 3 pass, 2 crash" in opened.text("h1")
    assert opened.ask("document.querySelectorAll('.grid a').length") == 4
    opened.click_on(".grid a[href='#run-1']")
    told(opened, 1)
    assert opened.text("#verdict") == "✗ crash"
    assert opened.ask("document.querySelectorAll('mark').length") == 1
    assert opened.ask("document.getElementById('lanes').width") > 0
    assert opened.ask("document.getElementById('brief').hidden")
    opened.click_on("#said a")
    assert opened.ask("location.hash") == "#dmesg-1"
    assert opened.ask("document.documentElement.dataset.open") == "1"
    opened.click_on("#back")
    back(opened)
    assert opened.ask("document.activeElement.getAttribute('href')") == "#run-1"


def test_what_passed_is_told_in_brief(opened: Browser) -> None:
    opened.click_on(".grid a[href='#run-0']")
    told(opened, 0)
    assert opened.text("#brief").startswith("In brief, since it passed")
    assert "Nothing was lost" in opened.text("#sankey")
    assert opened.ask("document.getElementById('time').hidden")
    opened.click_on("#brief a")
    opened.wait("location.pathname.endsWith('/runs/fine/report.html')")


def test_keys_go_through_grid_and_stories(opened: Browser) -> None:
    opened.ask("document.querySelector('.grid a').focus()")
    opened.press("ArrowRight")
    opened.press("ArrowDown")
    assert opened.ask("document.activeElement.getAttribute('href')") == "#run-3"
    opened.press("ArrowDown")  # there is no story
    opened.press("ArrowLeft")
    opened.press("Enter", "\r")
    told(opened, 2)
    assert opened.ask("document.activeElement.id") == "back"
    opened.click_on("#before")
    told(opened, 1)
    assert opened.ask("document.getElementById('after').getAttribute('href')") == "#run-2"
    opened.press("Escape")
    back(opened)
    opened.ask("history.back()")
    told(opened, 1)


def test_the_grid_is_searched(opened: Browser) -> None:
    rows = "[...document.querySelectorAll('.grid tbody tr')].filter(e => e.offsetParent).length"
    assert opened.ask(rows) == 4
    opened.click_on("#only")
    assert opened.ask(rows) == 3
    opened.ask("document.getElementById('find').focus()")
    opened.press("R")
    opened.press("e")
    opened.press("p")
    assert opened.ask(rows) == 2
    assert opened.text("#found") == "1 of 3 rows"


def test_in_the_dark_and_on_paper(opened: Browser, tmp_path: Path) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = opened.ask(background)
    opened.emulate(dark=True)
    assert opened.ask(background) != light
    opened.emulate(media="print", dark=True)
    assert opened.ask(background) == "rgb(255, 255, 255)"
    assert opened.ask("getComputedStyle(document.querySelector('.bar label')).display") == "none"
    assert len(opened.screenshot(tmp_path / "print.png")) > 10_000
    opened.emulate()


def test_a_matrix_of_thousands(browser: Browser, tmp_path: Path) -> None:
    failed = keep(busy(300), tmp_path / "failed")
    cells = [
        Cell(
            group=f"cases/test_{case // 20}.py",
            row=f"case {case}",
            kernel=f"debian:{kernel}",
            verdict=Verdict.PASS if case % 10 else Verdict.FAIL,
            reasons=() if case % 10 else ("expected 1, found 2",),
            duration_s=0.5,
            artifacts=None if case % 10 else failed,
        )
        for case in range(300)
        for kernel in range(10)
    ]
    path = tmp_path / "all.html"
    path.write_text(render_overview(cells, tmp_path))
    assert path.stat().st_size < 8 << 20
    browser.open(path)
    assert browser.ask("document.querySelectorAll('#all-why-not h3').length") == 50
    assert "And 250 more" in browser.text("#all-why-not")
    browser.click_on(".grid a[href='#run-2900']")
    told(browser, 2900)
    assert browser.text("#verdict") == "✓ pass"  # the story of `busy`
