"""What lands in the cache lands whole."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

import harness.apt.mirrors
import harness.landing
from harness.errors import CacheError
from harness.landing import (
    cache_errors,
    land_directory,
    sweep,
    take_away,
    write_atomically,
)


def test_what_fails_does_not_land(tmp_path: Path) -> None:
    def fill(part: Path) -> None:
        (part / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CacheError, match="No space left") as caught:
        land_directory(tmp_path / "x", fill)
    assert "larger disk" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == [".x.lock"]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EDQUOT, "larger disk"),
        (errno.EROFS, "directory that you can write"),
        (errno.EIO, "check the disk"),
    ],
)
def test_remedy_fits_the_error(code: int, remedy: str) -> None:
    with pytest.raises(CacheError) as caught, cache_errors("x"):
        raise OSError(code, "it went wrong")
    assert remedy in caught.value.remedy


def test_lock_that_is_never_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.landing, "LOCK_DEADLINE", 0.0)
    with (
        filelock.FileLock(tmp_path / ".x.lock"),
        pytest.raises(CacheError, match="another process"),
    ):
        land_directory(tmp_path / "x", lambda part: None)


def test_built_by_another_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = filelock.FileLock.acquire

    def slowly(self: filelock.FileLock, *args: object, **kwargs: object) -> object:
        (tmp_path / "x").mkdir()
        return acquire(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(filelock.FileLock, "acquire", slowly)
    land_directory(tmp_path / "x", lambda part: pytest.fail("filled again"))


def test_leftovers_of_a_killed_builder_do_not_land(tmp_path: Path) -> None:
    left = tmp_path / ".x.part"
    left.mkdir()
    (left / "half").touch()
    landed = land_directory(tmp_path / "x", lambda part: (part / "whole").touch())
    assert [path.name for path in landed.iterdir()] == ["whole"]
    assert not left.exists()


def test_landed_is_not_filled_again(tmp_path: Path) -> None:
    land_directory(tmp_path / "x", lambda part: None)
    land_directory(tmp_path / "x", lambda part: pytest.fail("filled again"))


def test_sweep_spares_what_is_being_built(tmp_path: Path) -> None:
    (tmp_path / ".dead.part").mkdir()

    def fill(part: Path) -> None:
        script = "import sys, pathlib, harness.landing as l; l.sweep(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
        assert part.exists()

    land_directory(tmp_path / "x", fill)
    assert not (tmp_path / ".dead.part").exists()


def test_sweep_removes_what_killed_writers_left(tmp_path: Path) -> None:
    (tmp_path / ".x.abc.tmp").touch()
    program = (
        "import os, pathlib, sys, time; import harness.landing as l\n"
        "pathlib.Path.replace = lambda *_: (print(flush=True), time.sleep(600))\n"
        "l.write_atomically(pathlib.Path(sys.argv[1]), b'new')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "x")], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        sweep(tmp_path)
        (own,) = tmp_path.glob(".x.*.tmp")
        writer.kill()
        writer.wait()
    assert own.name != ".x.abc.tmp"
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_take_away(tmp_path: Path) -> None:
    land_directory(tmp_path / "x", lambda part: (part / "y").touch())
    take_away(tmp_path / "x")
    take_away(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_write_atomically_leaves_the_old_content_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    write_atomically(path, b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CacheError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
