"""A file of the matrix, and results that no case gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.matrix.results import Result as Ended
from harness.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path


OLD, NEW, RT = "debian:5.10", "debian:7.3", "debian:7.3-rt"
TWO = "kernels:\n  - {kernel: debian:5.10, cases: smoke}\n  - {kernel: debian:7.3}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def ended(case: str, kernel: str | None, verdict: str, reason: str = "") -> Ended:
    return Ended(f"cases/{case}", kernel, Verdict(verdict), reason, 1.5)


RESULTS = [
    ended("test_b.py::test_one", OLD, "pass"),
    ended("test_b.py::test_two", OLD, "fail", "AssertionError: 1\nassert 1 == 2"),
    ended("test_b.py::test_three", OLD, "known", "uaf: frames outlive"),
    ended("test_b.py::test_one", RT, "crash", "crash\noops: divide error"),
    ended("test_b.py::test_two", RT, "invalid", "no boot"),
    ended("test_b.py::test_three", RT, "known", "uaf: frames outlive"),
    ended("test_a.py::test_x", OLD, "skip", "GRO: since 6.15"),
    ended("test_a.py::test_y", OLD, "skip", "GRO: since 6.15"),
    ended("test_a.py::test_x", NEW, "pass"),
    ended("test_a.py::test_y", NEW, "pass"),
]
