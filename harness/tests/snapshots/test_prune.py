"""Snapshots that have to go."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import harness.machine.machine
import harness.machine.snapshot
from harness.machine.snapshot import (
    list_snapshots,
    prune,
)

if TYPE_CHECKING:
    from pathlib import Path

    from harness.machine.machine import Recipe

from harness.tests.snapshots.machines import FakeMachine, boots, left, take

# Pruning


@pytest.fixture
def three(recipe: Recipe) -> list[Path]:
    """Three snapshots, the oldest first."""
    paths = [take(recipe, salt).directory for salt in ("a", "b", "c")]
    for age, path in enumerate(reversed(paths)):
        os.utime(path / "meta.json", (1e9 - age, 1e9 - age))
    return paths


def size(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.iterdir())


def test_the_one_not_used_for_longest_goes_first(three: list[Path], root: Path) -> None:
    total = sum(map(size, three))
    assert prune(total) == []
    assert prune(total - 1) == [three[0]]
    assert left(root) == {path.name for path in three[1:]}
    assert prune() == three[1:]
    assert left(root) == set()


def test_using_one_keeps_it(three: list[Path], recipe: Recipe) -> None:
    take(recipe, "a")
    assert prune(size(three[0])) == three[1:]


def test_one_may_be_spared(three: list[Path], root: Path) -> None:
    assert prune(spare=three[0]) == three[1:]
    assert left(root) == {three[0].name}


def test_damaged_ones_go_before_all_others(three: list[Path]) -> None:
    (three[2] / "meta.json").unlink()
    assert prune(sum(map(size, three)) - 1) == [three[2]]


def test_a_new_one_makes_room_for_itself(
    three: list[Path], recipe: Recipe, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.machine.snapshot, "LIMIT_BYTES", 2 * size(three[0]) + 4096)
    new = take(recipe, "d").directory
    assert left(root) == {three[2].name, new.name}


def test_what_is_being_built_is_left_alone(
    three: list[Path], recipe: Recipe, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned: list[Path] = []
    monkeypatch.setattr(FakeMachine, "boot", lambda: pruned.extend(prune()))
    built = take(recipe, "d").directory
    assert pruned == three
    assert left(root) == {built.name}
    assert boots() == 4


def test_what_a_killed_builder_left_is_swept(three: list[Path], root: Path) -> None:
    part = root / ".0123456789abcdef.part"
    part.mkdir()
    (part / "ram").write_bytes(b"half")
    prune(sum(map(size, three)))
    assert left(root) == {path.name for path in three}


def test_they_are_listed_for_people(three: list[Path]) -> None:
    (three[1] / "meta.json").write_text("garbage")
    listed = list_snapshots()
    assert [kept.directory for kept in listed] == [three[0], three[2], three[1]]
    assert [kept.kernel for kept in listed] == ["6.1.0-1-cloud-amd64"] * 2 + ["?"]
    assert listed[0].guest == "4 CPUs, 512 MiB"
    assert listed[0].size == size(three[0])
