from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

from harness.phases import WIPE, Phases

if TYPE_CHECKING:
    from collections.abc import Callable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not met() and time.monotonic() < deadline:
        time.sleep(0.005)


def test_what_is_soon_over_is_not_told() -> None:
    for stream in (io.StringIO(), Terminal()):
        with Phases(stream, patience_s=60) as phases:
            phases.begin("booting")
            phases.advance(1, 2)
            phases.fetch("a kernel", 1, 2)
        assert stream.getvalue() == ""


def test_a_file_gets_one_line_per_phase() -> None:
    stream = io.StringIO()
    with Phases(stream, patience_s=0.01) as phases:
        phases.begin("booting")
        wait_until(lambda: "booting" in stream.getvalue())
        for done in range(3):
            phases.fetch("a kernel", done, 2)
            wait_until(lambda: "kernel" in stream.getvalue())
        time.sleep(0.05)
    assert stream.getvalue() == "booting\nfetching a kernel\n"


def test_a_terminal_gets_one_line_that_is_wiped() -> None:
    stream = Terminal()
    with Phases(stream, patience_s=0.01) as phases:
        phases.begin("sending")
        phases.advance(1, 4)
        wait_until(lambda: "sending" in stream.getvalue())
        phases.end()
        length = len(stream.getvalue())
        time.sleep(0.05)
        assert len(stream.getvalue()) == length
    told = stream.getvalue()
    assert told.startswith(f"{WIPE}sending, 25 %, 0 s")
    assert told.endswith(WIPE)
    assert "\n" not in told


def test_nobody_reads_it() -> None:
    stream = io.StringIO()
    with Phases(stream, patience_s=0.01) as phases:
        stream.close()
        phases.begin("booting")
        time.sleep(0.05)
        phases.begin("sending")
