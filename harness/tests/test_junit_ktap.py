"""JUnit XML and KTAP, read back by the rules of those who read them."""

from __future__ import annotations

import importlib
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xmlschema

from harness.report.junit import write_junit
from harness.report.ktap import write_ktap
from harness.report.record import KernelRecord, RunRecord
from harness.tests.stories import make_record, world
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent


def run(verdict: Verdict, name: str = "steer", spec: str = "debian:7.3", **more: Any) -> RunRecord:
    reasons = () if verdict is Verdict.PASS else (f"because {verdict}", "and\nmore")
    kernel = KernelRecord(spec, "7.3.4-x", "ab" * 32)
    fields = {"verdict": verdict, "name": name, "reasons": reasons, "kernel": kernel}
    return make_record(world().books, **fields | more)


RUNS = [
    run(Verdict.PASS),
    run(Verdict.FAIL, spec="debian:6.1", artifacts=Path("results/a")),
    run(Verdict.SKIP, name="generic", spec="debian:5.10"),
    run(Verdict.CRASH, name="hot # replace"),
    run(Verdict.INVALID, name="hot # replace", spec="debian:6.1"),
    run(Verdict.KNOWN, name="known"),
    run(Verdict.PASS, name="known", spec="debian:6.1"),
]
HOSTILE = run(
    Verdict.FAIL,
    name="a\x00b\x1b[1m</testsuite>\nok 7 no # SKIP such test",
    spec="path:/x&y",
    reasons=("\x01]]>\ud800", "not ok 9 mine\nKTAP version 1\n1..2"),
)


# JUnit, by the schema of Jenkins' xunit plugin: schemas/junit-10.xsd, unchanged


@pytest.fixture(scope="module")
def schema() -> Any:
    return xmlschema.XMLSchema(HERE / "schemas" / "junit-10.xsd")


@pytest.mark.parametrize("runs", [[], RUNS, [HOSTILE], [make_record(None)]])
def test_junit_is_what_ci_systems_take(schema: Any, runs: list[RunRecord]) -> None:
    written = write_junit(runs)
    schema.validate(written)
    root = ET.fromstring(written)
    for element in (root, *root):
        cases = list(element.iter("testcase"))
        assert element.get("tests") == str(len(cases))
        for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            found = sum(case.find(tag) is not None for case in cases)
            assert element.get(count, str(found)) == str(found)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda suite: suite.attrib.pop("tests"),
        lambda suite: suite.set("time", "about 3"),
        lambda suite: setattr(suite[0][0], "tag", "fault"),
    ],
)
def test_the_schema_has_teeth(schema: Any, spoil: Callable[[ET.Element], object]) -> None:
    root = ET.fromstring(write_junit([run(Verdict.FAIL)]))
    assert schema.is_valid(root)
    spoil(root[0])
    assert not schema.is_valid(root)


def test_junit_tells_what_a_run_came_to() -> None:
    root = ET.fromstring(write_junit(RUNS))
    outcomes = {
        (suite.get("name"), case.get("name")): [e.tag for e in case if e.tag != "system-out"]
        for suite in root
        for case in suite
    }
    assert outcomes == {
        ("steer", "debian:7.3"): [],
        ("steer", "debian:6.1"): ["failure"],
        ("generic", "debian:5.10"): ["skipped"],
        ("hot # replace", "debian:7.3"): ["failure"],
        ("hot # replace", "debian:6.1"): ["error"],
        ("known", "debian:7.3"): ["skipped"],
        ("known", "debian:6.1"): [],
    }
    failed = root[0][1]
    failure = failed.find("failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("fail", "because fail")
    assert failure.text == "because fail\nand\nmore"
    told = failed.findtext("system-out") or ""
    assert {"verdict: fail", "injected: 48", "artifacts: results/a"} <= set(told.splitlines())


def test_junit_has_no_character_that_xml_has_not() -> None:
    case = ET.fromstring(write_junit([HOSTILE]))[0][0]
    assert case.get("name") == "path:/x&y"
    assert "\ufffd" in (case.findtext("failure") or "")


# KTAP, by Documentation/dev-tools/ktap.rst

RESULT = re.compile(r"(ok|not ok) ([0-9]+) ([^#\n]*?)( # ([A-Z]+)( .*)?)?$")


@pytest.fixture
def kunit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kernel's own parser: kunit/ is from tools/testing/kunit of Linux 7.3, unchanged."""
    monkeypatch.syspath_prepend(str(HERE / "kunit"))
    return importlib.import_module("kunit_parser")


def parse_with(kunit: Any, runs: list[RunRecord]) -> tuple[Any, str]:
    """Return the test that the kernel's parser finds, and what it complains of."""
    said = io.StringIO()
    found = kunit.parse_run_tests(write_ktap(runs).splitlines(), kunit.Printer(output=said))
    return found, "".join(line for line in said.getvalue().splitlines() if "[ERROR]" in line)


def test_the_kernel_parses_it(kunit: Any) -> None:
    found, complaints = parse_with(kunit, RUNS)
    assert complaints == ""
    assert [(test.name, test.status.name) for test in found.subtests] == [
        ("steer", "FAILURE"),
        ("generic", "SKIPPED"),
        ("hot replace", "FAILURE"),
        ("known", "SUCCESS"),
    ]
    runs = [(each.name, each.status.name) for test in found.subtests for each in test.subtests]
    assert runs == [
        ("debian:7.3 (7.3.4-x)", "SUCCESS"),
        ("debian:6.1 (7.3.4-x)", "FAILURE"),
        ("debian:5.10 (7.3.4-x)", "SKIPPED"),
        ("debian:7.3 (7.3.4-x)", "FAILURE"),
        ("debian:6.1 (7.3.4-x)", "FAILURE"),
        ("debian:7.3 (7.3.4-x)", "SUCCESS"),
        ("debian:6.1 (7.3.4-x)", "SUCCESS"),
    ]
    counts = found.counts
    assert (counts.passed, counts.failed, counts.skipped) == (3, 3, 1)
    assert (counts.crashed, counts.errors) == (0, 0)
    assert found.subtests[1].subtests[0].skip_reason == "because skip"
    assert "# because fail" in found.subtests[0].subtests[1].log[0]


def test_the_kernel_is_not_led_astray(kunit: Any) -> None:
    found, complaints = parse_with(kunit, [HOSTILE])
    assert complaints == ""
    assert (found.counts.failed, found.counts.total(), found.counts.errors) == (1, 1, 0)


@dataclass
class Parsed:
    """A test as a reader of KTAP finds it."""

    name: str
    ok: bool
    directive: str | None
    subtests: list[Parsed] = field(default_factory=list)
    diagnostics: list[str] = field(default_factory=list)


def parse(lines: list[str], depth: int = 0) -> list[Parsed]:
    """Parse one level, strictly: whatever is no line of it is an error."""
    indent = "  " * depth
    assert lines.pop(0) == f"{indent}KTAP version 1"
    if lines and lines[0].startswith(f"{indent}# Subtest: "):
        lines.pop(0)
    plan = re.fullmatch(rf"{indent}1\.\.(\d+)", lines.pop(0))
    assert plan
    tests: list[Parsed] = []
    subtests: list[Parsed] = []
    diagnostics: list[str] = []
    while lines and lines[0].startswith(indent):
        if lines[0] == f"{indent}  KTAP version 1":
            subtests = parse(lines, depth + 1)
            continue
        line = lines.pop(0).removeprefix(indent)
        if line.startswith("# "):
            diagnostics.append(line[2:])
            continue
        result = RESULT.fullmatch(line)
        assert result, line
        assert int(result[2]) == len(tests) + 1
        tests.append(Parsed(result[3], result[1] == "ok", result[5], subtests, diagnostics))
        subtests, diagnostics = [], []
    assert len(tests) == int(plan[1])
    return tests


def read(runs: list[RunRecord]) -> list[Parsed]:
    lines = write_ktap(runs).splitlines()
    tests = parse(lines)
    assert lines == []
    for test in tests:  # a test fails if any of its subtests does
        assert test.ok == all(subtest.ok for subtest in test.subtests)
    return tests


def test_ktap_parses_back() -> None:
    tests = read(RUNS)
    assert [(test.name, test.ok, test.directive) for test in tests] == [
        ("steer", False, None),
        ("generic", True, "SKIP"),
        ("hot replace", False, None),
        ("known", True, None),
    ]
    subtests = [(each.name, each.ok, each.directive) for test in tests for each in test.subtests]
    assert subtests == [
        ("debian:7.3 (7.3.4-x)", True, None),
        ("debian:6.1 (7.3.4-x)", False, None),
        ("debian:5.10 (7.3.4-x)", True, "SKIP"),
        ("debian:7.3 (7.3.4-x)", False, None),
        ("debian:6.1 (7.3.4-x)", False, "ERROR"),
        ("debian:7.3 (7.3.4-x)", True, "XFAIL"),
        ("debian:6.1 (7.3.4-x)", True, None),
    ]
    failed = tests[0].subtests[1]
    assert failed.diagnostics == ["because fail", "and", "more", "artifacts: results/a"]


def test_ktap_of_nothing() -> None:
    assert write_ktap([]) == "KTAP version 1\n1..0\n"


def test_ktap_cannot_be_led_astray() -> None:
    (test,) = read([HOSTILE])
    assert (test.ok, test.directive) == (False, None)
    assert "not ok 9 mine" in test.subtests[0].diagnostics
