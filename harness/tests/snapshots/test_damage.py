"""Snapshots that are damaged, and builders that fail."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

import harness.machine.machine
import harness.machine.snapshot
from harness.errors import BootFailed, CacheError, LabError, QemuFailed
from harness.landing import land_directory
from harness.machine.snapshot import (
    Snapshot,
    snapshot_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.machine.machine import Recipe

from harness.tests.snapshots.machines import PREPARED, RAM_BYTES, FakeMachine, boots, left, take

# Damage


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_unseen(path: Path, at: int) -> None:
    """Flip a bit and set the time back."""
    before = path.stat()
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)
    while True:  # the clock of a file system ticks
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        if path.stat().st_ctime_ns != before.st_ctime_ns:
            break


def swap_for_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def meta(directory: Path, **changes: Any) -> None:
    path = directory / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit in the RAM": lambda d: flip(d / "ram", 5 << 20),
    "a bit in a hole of the RAM": lambda d: flip(d / "ram", 1 << 20),
    "a bit in the RAM, unseen": lambda d: flip_unseen(d / "ram", 5 << 20),
    "shorter RAM": lambda d: os.truncate(d / "ram", RAM_BYTES - 4096),
    "longer RAM": lambda d: os.truncate(d / "ram", RAM_BYTES + 4096),
    "no RAM": lambda d: (d / "ram").unlink(),
    "a bit in the state": lambda d: flip(d / "state", 3),
    "shorter state": lambda d: os.truncate(d / "state", 5),
    "no state": lambda d: (d / "state").unlink(),
    "a directory for a state": lambda d: swap_for_directory(d / "state"),
    "no meta": lambda d: (d / "meta.json").unlink(),
    "an empty meta": lambda d: (d / "meta.json").write_text(""),
    "half a meta": lambda d: os.truncate(d / "meta.json", 40),
    "garbage meta": lambda d: (d / "meta.json").write_bytes(os.urandom(100)),
    "another meta": lambda d: (d / "meta.json").write_text('["ram", "state"]'),
    "a number for a meta": lambda d: (d / "meta.json").write_text("7"),
    "a meta without files": lambda d: meta(d, files={}),
    "a meta with a list of files": lambda d: meta(d, files=["ram", "state"]),
    "a bit in what was prepared": lambda d: meta(d, prepared={"ifindex": {"lo": 1, "eth0": 3}}),
    "an empty directory": empty,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_snapshot_is_built_anew(
    recipe: Recipe, root: Path, damage: Callable[[Path], object]
) -> None:
    good = take(recipe)
    content = (good.directory / "ram").read_bytes()
    damage(good.directory)
    again = take(recipe)
    assert boots() == 2
    assert again.directory == good.directory
    assert again.prepared == PREPARED
    assert (again.directory / "ram").read_bytes() == content
    assert left(root) == {good.directory.name}
    take(recipe)
    assert boots() == 2


def test_a_copy_with_other_holes_is_not_damaged(recipe: Recipe) -> None:
    """cp and file systems make holes as they like."""
    ram = take(recipe).directory / "ram"
    ram.write_bytes(ram.read_bytes())
    take(recipe)
    assert boots() == 1


def test_what_was_checked_is_not_checked_again(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(recipe)
    monkeypatch.setattr(harness.machine.snapshot, "_checksum", lambda _: "wrong")
    take(recipe)
    assert boots() == 1


def test_a_disk_that_damages_what_is_written(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(100))
    monkeypatch.setattr(harness.machine.snapshot, "_checksum", lambda _: str(next(numbers)))
    with pytest.raises(QemuFailed, match="does not match its own checksums") as caught:
        take(recipe)
    assert "--no-snapshot" in caught.value.remedy


def test_a_full_disk_does_not_make_a_snapshot_bad(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = take(recipe)
    (good.directory / "vouched.json").unlink()

    def no_room(*_: object) -> None:
        raise CacheError("no space")

    monkeypatch.setattr(harness.machine.snapshot, "write_atomically", no_room)
    assert take(recipe) == good
    assert boots() == 1


# Builders


def raising(error: BaseException) -> Callable[[], None]:
    def boot() -> None:
        raise error

    return boot


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (BootFailed("no", phase="kernel", console=""), BootFailed),
        (LabError("no"), LabError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), CacheError),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
@pytest.mark.parametrize("where", ["boot", "prepare"])
def test_nothing_half_written_after_an_error(
    recipe: Recipe,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    seen: type[BaseException],
    where: str,
) -> None:
    fail = raising(error)
    if where == "boot":
        monkeypatch.setattr(FakeMachine, "boot", fail)

    def prepare(_: object) -> dict[str, Any]:
        fail()
        return {}

    with pytest.raises(seen):
        snapshot_of(recipe, prepare, salt="salt")
    assert left(root) == set()
    assert all(machine.closed for machine in FakeMachine.made)


def test_an_error_on_a_full_disk_is_told_as_that(
    recipe: Recipe, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMachine, "boot", raising(QemuFailed("it died")))
    monkeypatch.setattr(FakeMachine, "full", CacheError("no room"))
    with pytest.raises(CacheError, match="no room"):
        take(recipe)
    assert left(root) == set()


def test_two_builders_at_once_build_one(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    results: list[Snapshot] = []

    def build() -> None:
        both.wait()
        results.append(take(recipe))

    builders = [threading.Thread(target=build) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert boots() == 1
    assert results[0] == results[1]


def test_the_second_builder_builds_what_the_first_could_not(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, go_on = threading.Event(), threading.Event()

    def boot() -> None:
        if len(FakeMachine.made) == 1:
            building.set()
            go_on.wait()
            raise BootFailed("not me", phase="none", console="")

    def land(*how: Any) -> Path:
        if building.is_set():
            go_on.set()
        return land_directory(*how)

    monkeypatch.setattr(FakeMachine, "boot", boot)
    monkeypatch.setattr(harness.machine.snapshot, "land_directory", land)
    failed: list[BaseException] = []

    def first() -> None:
        try:
            take(recipe)
        except BootFailed as error:
            failed.append(error)

    builder = threading.Thread(target=first)
    builder.start()
    building.wait()
    assert take(recipe).prepared == PREPARED
    builder.join()
    assert len(failed) == 1
