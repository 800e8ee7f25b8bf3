"""What the matrix makes of pytest's reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.case_id import split_id
from harness.matrix.results import Collector, worst
from harness.report.overview import INCOMPLETE
from harness.tests.fake_cases import CONFTEST
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

from harness.tests.matrix.tools import NEW, OLD, RT


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


pytest_plugins = ["pytester"]

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
