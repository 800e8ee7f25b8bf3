"""The pytest plugin, by running pytest on small cases: verdicts, and why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pytest_runs import CASES, Session


def test_every_case_has_its_outcome(session: Session) -> None:
    assert session.status == 1
    assert set(session.outcomes) == {
        line[len("def test_") :].partition("(")[0]
        for line in CASES.splitlines()
        if line.startswith("def test_")
    }
    assert "INTERNALERROR" not in session.output


@pytest.mark.parametrize(
    ("case", "kind", "verdict"),
    [
        ("passes", "passed", "pass"),
        ("fails", "failure", "fail"),
        ("fails_by_pytest", "failure", "fail"),
        ("skips", "skipped", None),
        ("expected_to_fail", "skipped", "fail"),
        ("doubled_frame", "failure", "fail"),
        ("missing_frame", "failure", "fail"),
        ("lost_events", "failure", "invalid"),
        ("lost_guest", "failure", "invalid"),
        ("error_of_the_lab", "failure", "invalid"),
        ("wrong_request", "failure", None),
        ("crash_that_fails", "failure", "crash"),
        ("crash_that_hides_behind_an_assertion", "failure", "crash"),
        ("crash_that_passes", "failure", "crash"),
        ("int3_once", "passed", "pass"),
        ("int3_twice", "failure", "crash"),
        ("leftover_kthread", "failure", "fail"),
        ("waits_less_after_cases_that_waited_in_vain", "passed", "pass"),
        ("boot_that_panics", "error", "crash"),
        ("guest_that_cannot_be", "error", None),
        ("without_a_guest", "passed", None),
    ],
)
def test_the_verdict(session: Session, case: str, kind: str, verdict: str | None) -> None:
    outcome = session.outcomes[case]
    assert (outcome.kind, outcome.verdict) == (kind, verdict), outcome.told


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("fails", "assert 10 == 11"),
        ("fails_by_pytest", "DID NOT RAISE"),
        ("doubled_frame", "verdict: fail"),
        ("missing_frame", "verdict: fail"),
        ("lost_events", "trace events were lost: the books prove nothing"),
        ("lost_guest", "QEMU"),
        ("error_of_the_lab", "the cable is cut"),
        ("wrong_request", "a case steers once"),
        ("crash_that_fails", "panic: Kernel panic - not syncing: sysrq triggered crash"),
        ("crash_that_hides_behind_an_assertion", "hung task: INFO: task kworker/"),
        ("crash_that_passes", "hung task: INFO: task kworker/"),
        ("int3_twice", "int3: 0000 [#1]"),
        ("leftover_kthread", "kthreads that outlive their map: cpumap/1/map:"),
        ("boot_that_panics", "The kernel said: Kernel panic - not syncing: VFS"),
        ("guest_that_cannot_be", "99 CPUs: a guest has 1 to 64"),
    ],
)
def test_the_reason(session: Session, case: str, told: str) -> None:
    assert told in session.outcomes[case].told


def test_what_the_emulator_spoiled_is_run_again_and_said_to_be(session: Session) -> None:
    for case in ("int3_once", "int3_twice"):
        again = session.outcomes[case].properties["again"]
        assert "a fault of the emulator's; kept in " in again
        first = Path(again.rpartition(" kept in ")[2])
        assert (first / "why.txt").read_text().startswith("verdict: invalid\noops: ")
        assert re.search(
            rf"^test_them.py::test_{case}\[.*\]: {re.escape(again)}$", session.output, re.M
        )
    assert len(re.findall("a fault of the emulator", session.output)) == 2


def test_what_the_lab_says_needs_no_traceback(session: Session) -> None:
    for case in ("lost_events", "lost_guest", "error_of_the_lab", "crash_that_passes"):
        assert "Traceback" not in session.outcomes[case].told
        assert ".py:" not in session.outcomes[case].told


def test_the_console_of_a_guest_that_died_is_kept(session: Session) -> None:
    assert "console of the guest" in session.output
    assert "sysrq: Trigger a crash" in session.output
    assert "command line of QEMU" in session.output


def test_the_header_says_what_is_run_on(session: Session) -> None:
    lines = session.output.splitlines()
    assert any(re.match(r"QEMU: \d+\.\d+\.\d+ \(\w+\), (tcg|kvm)", line) for line in lines)
    assert any(re.match(r"kernel: \S+ = \d+\.\d+\.", line) for line in lines)
