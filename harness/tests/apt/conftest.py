"""An apt that has a mirror of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import harness.apt.mirrors
import harness.landing
from harness.tests.fakes import FakeApt

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    monkeypatch.setattr(harness.apt.mirrors, "own_codename", lambda: "bookworm")
    return FakeApt.serve(tmp_path, monkeypatch)
