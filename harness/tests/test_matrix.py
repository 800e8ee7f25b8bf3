"""The matrix: its file, what it makes of pytest's reports, its grid, its exit statuses."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import harness.matrix.cli
from harness import cli
from harness.case_id import split_id
from harness.errors import UserError
from harness.matrix.grid import show_grid, summarize
from harness.matrix.plan import FILE, Matrix, Row, load_matrix
from harness.matrix.results import Collector, worst
from harness.matrix.results import Result as Ended
from harness.report.overview import INCOMPLETE
from harness.tests.fake_cases import CONFTEST
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest_plugins = ["pytester"]

OLD, NEW, RT = "debian:5.10", "debian:7.3", "debian:7.3-rt"
TWO = "kernels:\n  - {kernel: debian:5.10, cases: smoke}\n  - {kernel: debian:7.3}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


# Its file


def test_the_file_that_is_in_use() -> None:
    matrix = load_matrix(FILE)
    by_spec = {row.kernel: row.cases for row in matrix.kernels}
    names = ("5.10", "6.1", "6.12", "6.16", "6.18", "7.2", "7.3", "7.3-rt")
    assert matrix.specs == [f"debian:{name}" for name in names]
    assert [by_spec[spec] for spec in (OLD, NEW, RT)] == ["all"] * 3


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "smoke",
            "smok",
            "2:34: kernels[0].cases: found the text `smok`; allowed: all or smoke; d",
        ),
        ("debian:7.3", "debian7", "3:14: kernels[1].kernel: found the text `debian7`; the forms a"),
        ("debian:7.3", "debian:5.10", "3:14: kernels[1].kernel: debian:5.10 is there already"),
        ("cases", "case", "2:27: kernels[0].case: unknown key; did you mean `cases`?"),
        ("kernel:", "kernels:", "kernels[0].kernels: unknown key; did you mean `kernel`?"),
        (TWO, "kernels: []", "1:10: kernels: found an empty list; allowed: a list of 1 to 64"),
        (TWO, "- debian:7.3", "1:1: found a list of 1; a matrix is a mapping with the key kernels"),
    ],
)
def test_what_is_wrong_with_it(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in TWO
    with pytest.raises(UserError) as caught:
        load_matrix(write(tmp_path, TWO.replace(old, new)))
    assert told in caught.value.message


def test_what_the_command_line_chooses(tmp_path: Path) -> None:
    matrix = load_matrix(write(tmp_path, TWO))
    assert matrix.choose([], None) == matrix
    assert matrix.choose([RT, OLD, RT], None).kernels == (
        Row(kernel=RT, cases="all"),
        Row(kernel=OLD, cases="smoke"),
    )
    assert [row.cases for row in matrix.choose([], "smoke").kernels] == ["smoke", "smoke"]
    assert [row.cases for row in matrix.choose([OLD], "all").kernels] == ["all"]


# Names and verdicts


@pytest.mark.parametrize(
    ("nodeid", "case", "kernel"),
    [
        ("a.py::test[debian:7.3]", "a.py::test", NEW),
        ("a.py::test[debian:7.3-rt]", "a.py::test", RT),
        ("a.py::test[debian:7.3-rt-native]", "a.py::test[native]", RT),
        ("a.py::test[debian:7.3-native-8]", "a.py::test[native-8]", NEW),
        ("a.py::test[8-debian:7.3]", "a.py::test[8]", NEW),
        ("a.py::test[debian:7.3--1-64]", "a.py::test[-1-64]", NEW),
        ("a.py::test[8--1-debian:7.3]", "a.py::test[8--1]", NEW),
        ("a.py::test[8-debian:7.3-x]", "a.py::test[8-x]", NEW),
        ("a.py::test[debian:7.33]", "a.py::test[debian:7.33]", None),
        ("a.py::test[8]", "a.py::test[8]", None),
        ("a.py::test", "a.py::test", None),
    ],
)
def test_a_case_and_its_kernel(nodeid: str, case: str, kernel: str | None) -> None:
    assert split_id(nodeid, [OLD, NEW, RT]) == (case, kernel)


def test_the_worst_verdict_counts() -> None:
    order = ("crash", "fail", "invalid", "known", "skip", "pass")
    for number, word in enumerate(order):
        assert worst((Verdict(each), each) for each in reversed(order[number:]))[1] == word


CASES = """
import pytest
from harness.errors import TrafficError

@pytest.mark.smoke
def test_passes(lab): pass

def test_fails(lab): assert 10 == 11

@pytest.mark.parametrize("mode", ["native"])
def test_crashes(lab, mode): lab.crash = "divide error"

def test_invalid(lab): raise TrafficError("the cable is cut")

def test_skips(lab): pytest.skip("since 6.1")

def test_known(lab): assert 1 == 2

def test_wrong_fixture(nothing): pass

@pytest.fixture
def breaks():
    yield
    raise ZeroDivisionError

def test_breaks_at_its_end(lab, breaks): pass
"""
KNOWN = """\
- {id: known, title: told, case: "test_it.py::test_known", kernels: {from: "5.10"}, signature: 1 ==,
   evidence: seen, link: none found, expires: "2999-01-01"}
"""


@pytest.fixture
def collect(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Collector]:
    """Return a way to run cases, with what the matrix collects of it."""
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(pytester.path / "cache"))
    monkeypatch.setenv("CPUMAP_LAB_QEMU", "/nonexistent")
    pytester.makeconftest(CONFTEST)
    issues = pytester.path / "issues.yaml"
    issues.write_text(KNOWN)

    def collect(text: str, *options: str) -> Collector:
        pytester.makepyfile(test_it=text)
        collector = Collector([OLD, NEW, RT])
        pytester.inline_run("--known-issues", str(issues), *options, plugins=[collector])
        return collector

    return collect


@pytest.mark.parametrize("workers", [[], ["-n", "2", "--dist", "worksteal"]])
def test_what_is_collected(collect: Callable[..., Collector], workers: list[str]) -> None:
    results = collect(CASES, "--kernel", OLD, *workers).results()
    found = {r.case.removeprefix("test_it.py::test_"): (r.verdict.value, r.reason) for r in results}
    reasons = {name: reason for name, (_, reason) in found.items()}
    assert {name: verdict for name, (verdict, _) in found.items()} == {
        "passes": "pass",
        "fails": "fail",
        "crashes[native]": "crash",
        "invalid": "invalid",
        "skips": "skip",
        "known": "known",
        "wrong_fixture": "invalid",
        "breaks_at_its_end": "invalid",
    }
    assert reasons["passes"] == ""
    assert reasons["fails"].endswith("assert 10 == 11")
    assert reasons["crashes[native]"] == "oops: divide error"
    assert reasons["invalid"] == "the cable is cut"
    assert reasons["skips"] == "since 6.1"
    assert reasons["known"] == "known: told"
    assert "fixture 'nothing' not found" in reasons["wrong_fixture"]
    assert "ZeroDivisionError" in reasons["breaks_at_its_end"]
    kernels = {r.case.removeprefix("test_it.py::test_"): r.kernel for r in results}
    assert kernels["fails"] == OLD
    assert kernels["wrong_fixture"] is None
    assert all(r.duration_s >= 0 for r in results)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_the_page_of_what_pytest_ran(
    collect: Callable[..., Collector], pytester: pytest.Pytester, workers: list[str]
) -> None:
    page = pytester.path / "all.html"
    collector = collect(CASES, "--kernel", OLD, "--kernel", RT, "--page", str(page), *workers)
    html = page.read_text()
    assert f"<title>{len(collector.results())} runs: 2 pass, 2 fail, 2 crash, 5 " in html
    assert "crashes[native] on debian:7.3-rt" in html
    assert "Runs of which nothing is left: 6." in html  # the fake keeps nothing
    assert INCOMPLETE not in html
    collect(CASES, "--page", str(page), "-x", *workers)
    assert INCOMPLETE in page.read_text()


@pytest.mark.parametrize("page", [".", "no/such/page.html"])
def test_a_page_that_cannot_be_written_is_refused(pytester: pytest.Pytester, page: str) -> None:
    result = pytester.runpytest("--page", page)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --page {page}: a file in a directory that exists *"])


def test_a_worker_that_dies_is_no_verdict_on_the_kernel(
    collect: Callable[..., Collector],
) -> None:
    text = "import os\ndef test_dies(lab): os._exit(3)\ndef test_passes(lab): pass\n"
    found = {r.case: r for r in collect(text, "--kernel", NEW, "-n", "1").results()}
    assert found["test_it.py::test_passes"].verdict is Verdict.PASS
    assert found["test_it.py::test_dies"].verdict is Verdict.INVALID
    assert "crashed while running" in found["test_it.py::test_dies"].reason


def test_smoke_is_few_cases_and_only_on_its_kernels(collect: Callable[..., Collector]) -> None:
    results = collect(CASES, "--kernel", OLD, "--smoke", NEW, "--smoke", OLD).results()
    assert [r.case for r in results if r.kernel == NEW] == ["test_it.py::test_passes"]
    assert len([r for r in results if r.kernel == OLD]) == 7


def test_cases_that_cannot_be_read(collect: Callable[..., Collector]) -> None:
    collector = collect("import nothing_like_it")
    assert not collector.results()
    (fault,) = collector.faults
    assert "test_it.py" in fault
    assert "No module named 'nothing_like_it'" in fault
    assert not collector.interrupted


# The grid


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


# The command


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


# pytest under it


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
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status, output + errors
    assert told in output + errors
    assert "Traceback (most recent" not in output + errors


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
    deadline = time.monotonic() + 60
    while not (mark.exists() and told_a.exists()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "cases in 0:" in output
    assert "interrupted: the rest was not run" in errors
    told = json.loads(out.read_text())
    assert told["complete"] is False
    assert "cases/test_it.py::test_b" not in [row["case"] for row in told["rows"]]
