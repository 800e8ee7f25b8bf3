"""The command with cases that end as the test says: exit statuses, JSON, a page."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import harness.matrix.cli
from harness import cli
from harness.errors import UserError
from harness.report.overview import INCOMPLETE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.matrix.plan import Matrix
    from harness.matrix.results import Collector

from harness.tests.matrix.tools import NEW, OLD, TWO, ended, write


@pytest.fixture
def matrix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Return a way to call the command; the cases end as the test says."""

    def call(*args: str, verdicts: list[str] = [], **odd: Any) -> Result:  # noqa: B006
        def fake(
            chosen: Matrix,
            collector: Collector,
            expression: str | None,
            workers: int,
            *,
            locked: bool,
        ) -> Any:
            told = [f"{row.kernel} {row.cases}" for row in chosen.kernels]
            print(" ".join([*told, f"-k {expression} -n {workers}", *["--locked"] * locked]))
            results = [ended(f"test_{n}.py::test", OLD, v, "why") for n, v in enumerate(verdicts)]
            monkeypatch.setattr(collector, "results", lambda: results)
            collector.interrupted = odd.get("interrupted", False)
            return odd.get("broken")

        monkeypatch.setattr(harness.matrix.cli, "run_pytest", fake)
        image = SimpleNamespace(release="5.10.0-46", sha256="ab12")
        monkeypatch.setattr(harness.matrix.cli, "resolve", lambda _, pin, progress: image)
        path = write(tmp_path, TWO)
        return CliRunner().invoke(cli.cpumap_lab, ["matrix", str(path), *args])

    return call


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (["pass"], 0),
        (["pass", "skip", "known"], 0),
        (["skip"], 0),
        (["pass", "fail"], 1),
        (["crash", "invalid"], 1),
        (["invalid", "pass", "skip"], 125),
    ],
)
def test_exit_status(matrix: Callable[..., Result], verdicts: list[str], status: int) -> None:
    result = matrix(verdicts=verdicts)
    assert result.exit_code == status, result.output
    assert f"{len(verdicts)} cases in 0:00 min" in result.output


def test_what_it_runs(matrix: Callable[..., Result]) -> None:
    cores = len(os.sched_getaffinity(0))
    assert f"{OLD} smoke {NEW} all -k None -n {cores}\n" in matrix().output
    told = matrix("--kernel", NEW, "--smoke", "-k", "gro", "-n", "3").output
    assert f"{NEW} smoke -k gro -n 3\n" in told
    assert f"{OLD} all {NEW} all" in matrix("--all").output
    locked = matrix("--kernel", "debian:7.3", "-n", "2", "--locked").output
    assert "debian:7.3 all -k None -n 2 --locked\n" in locked


def test_json(matrix: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    matrix("--json", str(path), verdicts=["pass", "fail"])
    told = json.loads(path.read_text())
    assert told["kernels"][0] == {"spec": OLD, "release": "5.10.0-46", "sha256": "ab12"}
    assert told["rows"][1] == {
        "case": "cases/test_1.py::test",
        "kernel": OLD,
        "verdict": "fail",
        "reason": "why",
        "duration_s": 1.5,
        "artifacts": None,
        "again": None,
    }
    assert told["complete"] is True


def test_html(matrix: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    matrix("--html", str(path), verdicts=["pass", "fail"])
    assert "<title>2 runs: 1 pass, 1 fail</title>" in path.read_text()
    assert INCOMPLETE not in path.read_text()
    matrix("--html", str(path), verdicts=["pass"], interrupted=True)
    assert INCOMPLETE in path.read_text()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--kernel", "debian"], "`debian` is no kernel spec"),
        (["--json", "/nonexistent/out.json"], "there is no directory /nonexistent"),
        (["--html", "/nonexistent/out.html"], "there is no directory /nonexistent"),
    ],
)
def test_a_wrong_request(matrix: Callable[..., Result], args: list[str], told: str) -> None:
    result = matrix(*args)
    assert result.exit_code == 2
    assert told in result.stderr


def test_what_ran_is_told_when_the_rest_did_not(
    matrix: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "out.json"
    result = matrix("--json", str(path), verdicts=["pass"], interrupted=True)
    assert result.exit_code == 130
    assert "1 cases in" in result.output
    assert json.loads(path.read_text())["complete"] is False
    result = matrix(verdicts=["pass"], broken=UserError("no case fits"))
    assert result.exit_code == 2
    assert "error: no case fits" in result.stderr
