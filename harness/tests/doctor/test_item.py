"""One item: a check that fails, breaks or never ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import harness.apt.mirrors
import harness.doctor.build
import harness.doctor.cli
import harness.doctor.emulator
import harness.doctor.host
import harness.doctor.item
import harness.doctor.store
import harness.kernels
import harness.machine.accel
import harness.machine.qemu
from harness.doctor.item import Item, State, examine, succeeds
from harness.errors import ToolMissing

if TYPE_CHECKING:
    import pytest


def test_a_failing_check_is_a_finding_with_the_errors_remedy() -> None:
    def check() -> list[Item]:
        raise ToolMissing("no such thing", remedy="get one")

    assert examine("thing", check) == [Item("thing", State.MISSING, "no such thing", "get one")]


def test_a_check_that_breaks_does_not_end_the_others() -> None:
    def check() -> list[Item]:
        raise AttributeError("undefined symbol: archive_read_new")

    (item,) = examine("thing", check)
    assert item.state == State.MISSING
    assert "archive_read_new" in item.seen


def test_a_program_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.doctor.item, "PROBE_S", 0.2)
    good, said = succeeds("sleep", "60")
    assert not good
    assert "no end within" in said


def test_what_a_program_said_last_is_told() -> None:
    assert succeeds("sh", "-c", "echo one; echo two >&2; exit 3") == (False, "two")
    assert succeeds("/nowhere/at/all") == (False, "No such file or directory")
