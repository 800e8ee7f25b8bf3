"""The grid and the summary."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console

from harness.matrix.grid import show_grid, summarize
from harness.tests.matrix.tools import NEW, OLD, RESULTS, RT


def shown(**how: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    show_grid(console, RESULTS, [OLD, NEW, RT], **how)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [re.sub(r"  +", "  ", line).strip() for line in text.splitlines()]


def test_the_grid() -> None:
    lines = shown()
    assert lines[:3] == ["5.10  7.3  7.3-rt", "a  2s  2  -", "b  1 1F 1k  -  1C 1I 1k"]
    assert lines[4:] == [
        "",
        "FAIL cases/test_b.py::test_two on debian:5.10",
        "AssertionError: 1",
        "assert 1 == 2",
        "",
        "CRASH cases/test_b.py::test_one on debian:7.3-rt",
        "crash",
        "oops: divide error",
        "",
        "INVALID cases/test_b.py::test_two on debian:7.3-rt",
        "no boot",
        "",
        "known uaf: frames outlive [5.10 7.3-rt]",
        "",
        "skip GRO: since 6.15 [5.10]",
    ]


def test_the_grid_by_case() -> None:
    lines = shown(by_case=True)
    assert lines[1:3] == ["a: x  1s  1  -", "a: y  1s  1  -"]
    assert len(lines) == len(shown()) + 3


def test_the_summary() -> None:
    told = summarize(RESULTS, 125.4)
    assert told == ("10 cases in 2:05 min: 3 pass, 1 fail, 1 crash, 1 invalid, 2 known, 2 skip")
    assert summarize([], 0.2) == "0 cases in 0:00 min: nothing was run"
