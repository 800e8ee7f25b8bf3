from __future__ import annotations

import io
import time

from harness.patience import wait_until
from harness.phases import WIPE, Phases
from harness.tests.fakes import LATE_S


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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
        assert wait_until(lambda: "booting" in stream.getvalue(), LATE_S)
        for done in range(3):
            phases.fetch("a kernel", done, 2)
            assert wait_until(lambda: "kernel" in stream.getvalue(), LATE_S)
        time.sleep(0.05)
    assert stream.getvalue() == "booting\nfetching a kernel\n"


def test_a_terminal_gets_one_line_that_is_wiped() -> None:
    stream = Terminal()
    with Phases(stream, patience_s=0.01) as phases:
        phases.begin("sending")
        phases.advance(1, 4)
        assert wait_until(lambda: "sending" in stream.getvalue(), LATE_S)
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
