"""A bisection among three kernels: since 6.15 segments of a TCP flow are merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from lab_tools import UNMERGED

from harness import cli
from harness.kernels import resolve

if TYPE_CHECKING:
    from pathlib import Path

ENDS = ("debian:6.12", "debian:6.16")
WRONG_ENDS = ("debian:6.16", "debian:6.17")


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    for spec in {*ENDS, *WRONG_ENDS}:
        resolve(spec)
    path = tmp_path / "unmerged.yaml"
    path.write_text(UNMERGED)
    return str(path)


def bisect(scenario: str, good: str, bad: str) -> Any:
    arguments = ["bisect", scenario, "--good", good, "--bad", bad, "--cached"]
    return CliRunner().invoke(cli.cpumap_lab, arguments)


def test_both_ends_are_run_and_compared(scenario: str) -> None:
    ended = bisect(scenario, *ENDS)
    assert ended.exit_code == 0, ended.output
    assert "first bad: 6.16" in ended.output
    assert "releases between: 6.13, 6.14, 6.15, 6.16" in ended.output
    assert "skbs  no complaint  expected 20 packets, found 1" in ended.output
    again = bisect(scenario, *ENDS)
    assert "runs of it count" in again.output
    assert again.exit_code == 0


def test_an_end_on_the_wrong_side_is_refused(scenario: str) -> None:
    ended = bisect(scenario, *WRONG_ENDS)
    assert ended.exit_code == 2
    assert "is on the wrong side: it was to be without the failure and shows it" in ended.output
    assert "seen: fail: skbs: expected 20 packets, found 1" in ended.output
