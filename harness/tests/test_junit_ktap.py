"""JUnit XML and KTAP, read back by the rules of those who read them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xmlschema

from harness.report.junit import write_junit
from harness.report.ktap import write_ktap
from harness.report.record import KernelRecord, RunRecord
from harness.tests.ktap import Test, read_ktap
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


def read(runs: list[RunRecord]) -> list[Test]:
    return read_ktap(write_ktap(runs))


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
    assert [each.reason for each in tests[1].subtests] == ["because skip"]


def test_ktap_of_nothing() -> None:
    assert write_ktap([]) == "KTAP version 1\n1..0\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("KTAP version 1\n1..4", "1..4"),
        ("  KTAP version 1", " KTAP version 1"),
        ("1..4", "1..5"),
        ("  1..2\n", "  1..3\n"),
        ("  # Subtest: steer", "  # Subtest: another"),
        ("not ok 1 steer", "ok 1 steer"),
        ("ok 2 generic", "ok 3 generic"),
        ("# SKIP because", "# SKIPPED because"),
        ("# SKIP because", "# because"),
        ("not ok 2 debian:6.1 (7.3.4-x) # ERROR", "ok 2 debian:6.1 (7.3.4-x) # ERROR"),
        ("  # because fail", "  because fail"),
        ("ok 4 known\n", ""),
        ("ok 4 known\n", "ok 4 known\nok 5 more\n"),
    ],
)
def test_the_reader_has_teeth(old: str, new: str) -> None:
    written = write_ktap(RUNS)
    assert old in written
    with pytest.raises(ValueError, match=r"line [0-9]+"):
        read_ktap(written.replace(old, new, 1))


def test_ktap_cannot_be_led_astray() -> None:
    (test,) = read([HOSTILE])
    assert (test.ok, test.directive) == (False, None)
    assert "not ok 9 mine" in test.subtests[0].diagnostics
