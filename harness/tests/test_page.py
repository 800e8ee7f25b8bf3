"""The HTML report: what goes into it, and what a real browser makes of it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from harness.report import page
from harness.report.depth import depths
from harness.report.page import embed, render, tell
from harness.report.story import Ring, Story
from harness.tests.browser import Browser
from harness.tests.stories import OOPS, busy, make_record, world
from harness.trace.events import CpumapEnqueue, CpumapKthread, Event, XdpAction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.trace.events import Record

LOSSY: dict[str, Any] = {
    "verdicts": tuple(XdpAction),
    "prog": True,
    "full": 0.1,
    "redirect_error": 0.3,
}


def data_of(html: str) -> Any:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert text
    return json.loads(text[1])


def test_nothing_that_is_told_ends_the_script() -> None:
    hostile = "</script><!-- \u2028 @DATA@ @SCRIPT@ &amp;"
    assert json.loads(embed(hostile)) == hostile
    assert not set("<>&\u2028") & set(embed(hostile))
    html = render(world(dmesg=OOPS + hostile, console=hostile))
    assert data_of(html)["texts"][0]["text"] == hostile
    assert html.count("</script>") == 2


def test_the_title_is_escaped() -> None:
    assert "<title>pass: steer &amp; see on 7.3.4+deb14-cloud-amd64</title>" in render(world())


def test_the_page_names_nothing_on_a_network() -> None:
    html = render(world())
    assert set(re.findall(r"https?://[^\"']*", html)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in html


def test_depth_is_what_went_in_less_what_came_out() -> None:
    native = CpumapEnqueue(0, 1, 5, 4, 8, 2, 3, 0)
    generic = CpumapEnqueue(0, 2, 5, 4, 1, 0, 3, 0)
    elsewhere = CpumapEnqueue(0, 3, 5, 4, 8, 0, 2, 0)
    took = CpumapKthread(3, 4, 5, 4, 7, 0, 3, 0, 0, 0, 0)
    records: list[Record] = [native, generic, Event("x", 0, 2, {}), elsewhere, took, took]
    told = list(depths(records, []))
    assert [depth for _, depth in told] == [6, 7, None, 8, 0, 0]
    assert [ring for ring, _ in told] == [(5, 3), (5, 3), None, (5, 2), (5, 3), (5, 3)]


def test_a_kthread_away_from_home_empties_the_fullest_ring() -> None:
    records: list[Record] = [
        CpumapEnqueue(0, 1, 5, 4, 8, 0, 2, 0),
        CpumapEnqueue(0, 2, 5, 4, 4, 0, 3, 0),
        CpumapEnqueue(0, 3, 6, 4, 8, 0, 1, 0),
        CpumapKthread(1, 4, 5, 4, 6, 0, 1, 0, 0, 0, 0),
        CpumapKthread(2, 5, 5, 4, 2, 0, 2, 0, 0, 0, 0),
    ]
    told = list(depths(records, []))
    assert told[3:] == [((5, 2), 2), ((5, 2), 0)]
    lone = [CpumapKthread(1, 4, 5, 4, 0, 0, 1, 0, 0, 0, 0)]
    assert list(depths(lone, [Ring(5, 1, 8)])) == [((5, 1), 0)]
    assert list(depths(lone, [])) == [((5, 1), 0)]


def test_events_are_told_by_column() -> None:
    told = tell(busy(1000))
    events = told["events"]
    assert {len(events[name]) for name in ("dt", "k", "c", "r", "p", "d", "q", "s")} == {1000}
    assert events["dt"][0] == 0
    assert events["t0"] > 5_000_000_000
    assert [ring["cpu"] for ring in told["rings"]] == [0, 1, 2, 3]
    assert max(events["q"]) == max(ring["peak"] for ring in told["rings"]) <= 256


def test_more_events_than_a_page_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_EVENTS", 10)
    events = tell(busy(100))["events"]
    assert (events["total"], len(events["k"])) == (100, 10)


def test_splats_are_found_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = [each for each in tell(world(dmesg=OOPS + OOPS))["texts"] if each["name"] == "dmesg"]
    assert [splat["kind"] for splat in text["splats"]] == ["oops", "oops"]
    for splat in text["splats"]:
        marked = text["text"][splat["start"] : splat["end"]]
        assert marked.startswith("[    3.200000] BUG")
        assert marked.endswith("end trace 0000000000000000 ]---\n")
    monkeypatch.setattr(page, "MAX_TEXT", 30)
    text = tell(world(console="x" * 50))["texts"][0]
    assert (len(text["text"]), text["cut"]) == (30, 20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    """Open stories in the browser; at the end it must have had nothing to complain of."""
    browser.emulate()
    browser.complaints.clear()
    browser.requests.clear()

    def open_story(story: Story) -> Browser:
        path = tmp_path / "report.html"
        path.write_text(render(story), encoding="utf-8")
        browser.open(path)
        browser.settle()
        return browser

    yield open_story
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("file://")] == []


def in_lane(browser: Browser, row: int = 0) -> tuple[float, float]:
    """Return a place on the canvas in the middle of a lane, above its line."""
    left, top, width, _ = browser.place("#lanes")
    return left + 192 + (width - 206) / 2, top + 80 + row * 71


def seen(browser: Browser) -> int:
    """Return how many events the timeline says are in view."""
    found = re.search(r"([\d,]+) of [\d,]+ events", browser.text("#range"))
    assert found
    return int(found[1].replace(",", ""))


def drawn(browser: Browser) -> str:
    """Return what is on the canvas, as an image."""
    image: str = browser.ask("document.getElementById('lanes').toDataURL()")
    return image


def test_a_pass_in_a_browser(opened: Any) -> None:
    browser = opened(world())
    assert browser.text("#verdict") == "✓ pass"
    assert "steer & see" in browser.text("h1")
    assert "Nothing was lost" in browser.text("#sankey")
    assert "frames injected" in browser.text("#head")
    assert "waited p50" in browser.text("#cpus")
    assert re.search(r"\d (ns|µs|ms)", browser.text("#cpus"))
    assert browser.ask("document.querySelectorAll('section:not([hidden])').length") == 6
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert len(drawn(browser)) > 10_000


def test_a_crash_in_a_browser(opened: Any) -> None:
    browser = opened(world(frames=300, dmesg=OOPS, socket_full=0.1, **LOSSY))
    assert browser.text("#verdict") == "✗ crash"
    label = browser.ask("document.querySelector('#sankey svg').getAttribute('aria-label')")
    for loss in ("XDP_DROP", "XDP_ABORTED", "redirect failed", "refused: ring full"):
        assert loss in browser.text("#sankey")
        assert loss in label
    assert browser.ask("document.querySelectorAll('mark').length") == 1
    assert "</script><b>kthread</b>" in browser.text("mark")
    browser.click_on("#said a")
    assert browser.ask("location.hash") == "#dmesg-1"


def test_a_run_that_never_was(opened: Any) -> None:
    browser = opened(Story(record=make_record(None)))
    assert browser.ask("document.querySelectorAll('section:not([hidden])').length") == 1


def test_zoom_and_pan(opened: Any) -> None:
    browser = opened(busy(4000, idle=0))
    x, y = in_lane(browser)
    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-400)
    browser.settle()
    assert 0 < seen(browser) < 4000
    before = browser.text("#range")
    browser.mouse("mousePressed", x, y, button="left", clickCount=1)
    browser.mouse("mouseMoved", x - 120, y, button="left", buttons=1)
    browser.mouse("mouseReleased", x - 120, y, button="left", clickCount=1)
    browser.settle()
    assert browser.text("#range") != before
    assert browser.text("#pinned") == ""  # a drag is no click
    browser.click_on("#fit")
    assert seen(browser) == 4000
    browser.click_on("#zoom-in")
    assert seen(browser) < 4000
    browser.click(*in_lane(browser), times=2)
    assert seen(browser) == 4000


def test_zooming_in_goes_for_the_events(opened: Any) -> None:
    browser = opened(busy(2000, idle=0.01))
    browser.ask("document.getElementById('lanes').focus()")
    for _ in range(30):
        browser.press("+")
        assert seen(browser) > 0


def test_hover_tells_and_click_pins(opened: Any) -> None:
    browser = opened(busy(400))
    browser.mouse("mouseMoved", *in_lane(browser))
    browser.settle()
    assert not browser.ask("document.getElementById('tip').hidden")
    assert "CPU 0" in browser.text("#tip")
    browser.click(*in_lane(browser))
    assert "CPU 0" in browser.text("#pinned")
    raw = browser.text("#pinned .raw")
    assert re.fullmatch(r"\[000\] 5\.\d{6}: xdp_cpumap_\w+: map_id=5 .*processed=\d.*", raw)
    browser.click_on("#pinned button:nth-child(2)")
    assert browser.text("#pinned .raw") != raw
    browser.click_on("#pinned button:nth-child(3)")
    assert browser.text("#pinned") == ""


def test_keys_do_what_the_mouse_does(opened: Any) -> None:
    browser = opened(busy(400))
    browser.ask("document.getElementById('lanes').focus()")
    browser.press("ArrowRight")
    first = browser.text("#tip")
    browser.press("ArrowRight")
    assert browser.text("#tip") != first
    browser.press("ArrowDown")
    assert "CPU 1" in browser.text("#tip")
    browser.press("Enter")
    assert "CPU 1" in browser.text("#pinned")
    browser.press("Escape")
    assert browser.text("#pinned") == ""
    browser.press("+")
    assert seen(browser) < 400
    browser.press("0")
    assert seen(browser) == 400


STROKES = """(() => {
  let strokes = 0;
  const pen = CanvasRenderingContext2D.prototype;
  for (const name of ["fillRect", "lineTo"]) {
    const own = pen[name];
    pen[name] = function (...where) { strokes++; return own.apply(this, where); };
  }
  dispatchEvent(new Event("beforeprint"));
  return strokes;
})()"""
"""Draw everything once and count the strokes."""


def test_a_hundred_thousand_events(opened: Any) -> None:
    story = busy(100_000)
    browser = opened(story)
    assert seen(browser) == 100_000
    assert browser.ask("document.querySelectorAll('*').length") < 1000
    few = opened(busy(100)).ask("document.querySelectorAll('*').length")
    browser = opened(story)
    assert abs(browser.ask("document.querySelectorAll('*').length") - few) < 20
    # a redraw is as much work as the picture is wide, however many the events
    assert 0 < browser.ask(STROKES) < 20_000


def test_in_the_dark_and_on_paper(opened: Any, tmp_path: Path) -> None:
    browser = opened(world(frames=200, dmesg=OOPS, **LOSSY))
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = browser.ask(background), drawn(browser)
    browser.emulate(dark=True)
    dark = browser.ask(background), drawn(browser)
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    browser.emulate(media="print", dark=True)
    assert browser.ask(background) == "rgb(255, 255, 255)"
    assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.ask("getComputedStyle(document.querySelector('pre')).maxHeight") == "none"
    assert drawn(browser) not in dark
    assert len(browser.screenshot(tmp_path / "print.png")) > 10_000
    browser.emulate()


def test_narrow_windows_scroll_what_does_not_fit(opened: Any) -> None:
    browser = opened(world(frames=200, **LOSSY))
    size = {"height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.call("Emulation.setDeviceMetricsOverride", width=480, **size)
    browser.settle()
    assert browser.ask("document.documentElement.scrollWidth") <= 480
    browser.call("Emulation.setDeviceMetricsOverride", width=1280, **size)
