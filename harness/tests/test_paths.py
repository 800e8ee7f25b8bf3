from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import harness.paths
from harness.errors import ToolMissing
from harness.paths import built

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose only program is made of one source."""
    monkeypatch.setattr(harness.paths, "REPO", tmp_path)
    for name in ("guest", "build/guest"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "guest" / "Makefile").write_text("../build/guest/agent: agent.c\n\tcp $< $@\n")
    (tmp_path / "guest" / "agent.c").touch()
    return tmp_path


def make(repo: Path, *, newer_by_s: int) -> Path:
    agent = repo / "build" / "guest" / "agent"
    agent.touch()
    source = (repo / "guest" / "agent.c").stat()
    os.utime(agent, (source.st_atime, source.st_mtime + newer_by_s))
    return agent


def test_what_is_built(repo: Path) -> None:
    agent = make(repo, newer_by_s=1)
    assert built("agent") == agent


def test_what_is_not(repo: Path) -> None:
    with pytest.raises(ToolMissing, match="agent has not been built"):
        built("agent")


def test_what_is_older_than_its_sources(repo: Path) -> None:
    make(repo, newer_by_s=-1)
    with pytest.raises(ToolMissing, match="older than its sources") as caught:
        built("agent")
    assert caught.value.remedy == "run `make -C guest`"


def test_without_make_it_is_taken_as_it_is(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make(repo, newer_by_s=-1)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert built("agent") == agent
