"""Sources and builds in the cache, and which of them are thrown away."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from harness.cli import cpumap_lab
from harness.kernels.trees import prune_trees, trees
from harness.landing import locked

if TYPE_CHECKING:
    from pathlib import Path

BYTES = 1 << 20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two sources, and three builds of which one was used again; first used first."""
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path))
    names = ("sources/linux-6.1", "builds/a", "builds/b", "sources/linux-7.3", "builds/c")
    for age, name in enumerate(names):
        path = tmp_path / name / "kernel/bpf/cpumap.c"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(BYTES))
        if name == "builds/b":
            (tmp_path / name / "source").symlink_to(tmp_path / "sources/linux-6.1")
        if name == "builds/a":
            (tmp_path / name / "build.log").touch()
        os.utime(tmp_path / name, (age, age))
    (tmp_path / "builds/.half.part").mkdir()
    return tmp_path


def left(cache: Path) -> list[str]:
    rooms = (cache / "sources", cache / "builds")
    return sorted(p.name for room in rooms for p in room.iterdir() if p.suffix != ".lock")


def test_what_was_used_last_is_kept(cache: Path) -> None:
    assert [tree.directory.name for tree in prune_trees(keep=1)] == ["c", "b", "linux-6.1"]
    assert left(cache) == ["a", "linux-7.3"]
    assert all(tree.size >= BYTES for tree in trees())
    assert len(prune_trees(keep=0)) == 2
    assert left(cache) == []


def test_what_is_being_built_stays_and_its_source(cache: Path) -> None:
    with locked(cache / "builds/b"):
        assert {tree.directory.name for tree in prune_trees(keep=0)} == {"linux-7.3", "a", "c"}
    assert left(cache) == ["b", "linux-6.1"]


def prune(*arguments: str) -> str:
    done = CliRunner().invoke(cpumap_lab, ["kernels", "prune", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command(cache: Path) -> None:
    before = left(cache)
    told = prune("--dry-run", "--all")
    assert "would remove the source linux-6.1\t1 MB\n" in told
    assert told.endswith("0 kernels, 5 sources and builds, 5 MB\n")
    assert left(cache) == before
    assert "removed the build b\t1 MB\n" in prune("--keep", "2")
    assert left(cache) == ["a", "c", "linux-6.1", "linux-7.3"]
