"""The real command and pytest under it, on cases whose guests are none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.patience import wait_until
from harness.tests.fake_cases import CONFTEST
from harness.tests.fakes import LATE_S, make_bzimage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

from harness.tests.matrix.tools import OLD


@pytest.fixture
def under_pytest(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a way to start the real command on cases whose guests are none."""
    cases = tmp_path / "cases"
    cases.mkdir()
    (cases / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    lines = [
        "import harness.matrix.cli as cli",
        "from pathlib import Path; from types import SimpleNamespace as N",
        f"cli.REPO, cli.CASES = Path({str(tmp_path)!r}), Path({str(cases)!r})",
        "cli.resolve = lambda spec, pin, progress: N(release='x', sha256='y')",
        "from harness.cli import main; main()",
    ]

    def start(text: str, *args: str) -> subprocess.Popen[str]:
        (cases / "test_it.py").write_text(text)
        return subprocess.Popen(
            [sys.executable, "-c", "; ".join(lines), "matrix", "--kernel", OLD, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"CPUMAP_LAB_CACHE": str(tmp_path / "cache")},
        )

    return start


@pytest.mark.parametrize(
    ("text", "args", "status", "told"),
    [
        ("def test_a(lab): pass", [], 0, "1 cases in"),
        ("def test_a(lab): pass", ["-n", "2"], 0, "1 cases in"),
        ("def test_a(lab): assert 0", ["-n1"], 1, "FAIL cases/test_it.py::test_a on debian:5.10"),
        ("def test_a(lab): pass", ["-k", "none"], 2, "error: no case fits"),
        (
            "def test_a(lab): pass",
            ["-k", "and and"],
            2,
            "error: -k 'and and': expected not OR",
        ),
        ("import nothing_like_it", ["-n", "2"], 125, "error: cases that cannot be read"),
    ],
)
def test_through_pytest(
    under_pytest: Callable[..., subprocess.Popen[str]],
    text: str,
    args: list[str],
    status: int,
    told: str,
) -> None:
    process = under_pytest(text, *args)
    output, errors = process.communicate(timeout=LATE_S)
    assert process.returncode == status, output + errors
    assert told in output + errors
    assert "Traceback (most recent" not in output + errors


def test_a_kernel_of_a_long_name_that_is_not_ascii(
    under_pytest: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Of such, pytest makes other ids than of short ones."""
    path = tmp_path / "zoë" / ("linux" * 20) / "bzImage"
    path.parent.mkdir(parents=True)
    path.write_bytes(make_bzimage())
    process = under_pytest("def test_a(kernel_spec): assert 0", "-n1", "--kernel", f"path:{path}")
    output, errors = process.communicate(timeout=LATE_S)
    assert process.returncode == 1, output + errors
    assert f"FAIL cases/test_it.py::test_a on path:{path}\n" in output


@pytest.mark.parametrize(("workers", "number"), [("2", signal.SIGINT), ("1", signal.SIGTERM)])
def test_an_interrupt_prints_what_ran(
    under_pytest: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    workers: str,
    number: signal.Signals,
) -> None:
    mark, told_a, out = tmp_path / "begun", tmp_path / "told", tmp_path / "out.json"
    with (tmp_path / "cases/conftest.py").open("a") as conftest:
        conftest.write(f"""
import pathlib, pytest
def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(Told())
class Told:
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            pathlib.Path({str(told_a)!r}).touch()
""")
    text = f"""
import pathlib, time
def test_a(lab): pass
def test_b(lab):
    pathlib.Path({str(mark)!r}).touch()
    time.sleep(100)
def test_c(lab): pass
"""
    process = under_pytest(text, "-n", workers, "--json", str(out))
    assert wait_until(lambda: mark.exists() and told_a.exists(), LATE_S)
    process.send_signal(number)
    output, errors = process.communicate(timeout=LATE_S)
    assert process.returncode == 130, output + errors
    assert "cases in 0:" in output
    assert "interrupted: the rest was not run" in errors
    told = json.loads(out.read_text())
    assert told["complete"] is False
    assert "cases/test_it.py::test_b" not in [row["case"] for row in told["rows"]]
