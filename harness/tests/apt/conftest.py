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
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(harness.apt.mirrors, "KEYRINGS", (tmp_path / "none.gpg", keyring))
    monkeypatch.setattr(harness.apt.mirrors, "own_codename", lambda: "bookworm")
    fake = FakeApt(tmp_path / "fake")
    fake.install(monkeypatch)
    return fake
