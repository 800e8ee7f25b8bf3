"""The doctor's command: exit status, JSON, a table."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from click.testing import CliRunner
from rich.console import Console

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
from harness.doctor import doctor
from harness.doctor.cli import lines_of, table_of
from harness.doctor.item import Item, State

if TYPE_CHECKING:
    import pytest


def run(monkeypatch: pytest.MonkeyPatch, *items: Item, json_: bool = False) -> tuple[int, str]:
    monkeypatch.setattr(harness.doctor.cli, "CHECKS", (("all", lambda: items),))
    result = CliRunner().invoke(doctor, ["--json"] if json_ else [])
    return result.exit_code, result.stdout


OK = Item("one", State.OK, "here")
WARN = Item("two", State.WARN, "old", "get a new one")
MISSING = Item("three", State.MISSING, "none", "get [one]")


def test_exit_status_is_125_only_when_something_needed_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(monkeypatch, OK, WARN)[0] == 0
    assert run(monkeypatch, OK, WARN, MISSING)[0] == 125


def test_json_has_each_item(monkeypatch: pytest.MonkeyPatch) -> None:
    status, out = run(monkeypatch, OK, MISSING, json_=True)
    assert status == 125
    assert json.loads(out) == {
        "ready": False,
        "items": [
            {"name": "one", "state": "ok", "seen": "here", "remedy": ""},
            {"name": "three", "state": "missing", "seen": "none", "remedy": "get [one]"},
        ],
    }


def test_plain_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, OK, WARN)[1].splitlines() == lines_of([OK, WARN])
    assert lines_of([WARN]) == ["warn    two: old", "          remedy: get a new one"]


def test_a_table_takes_text_for_text() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(table_of([MISSING]))
    assert "get [one]" in console.export_text()
