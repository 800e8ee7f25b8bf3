"""Downloads that fail, are killed or bring other content."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.apt import Archive
from harness.errors import FetchFailed
from harness.landing import (
    sha256_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from harness.tests.fakes import FakeApt


def test_download_is_verified_and_told(apt: FakeApt, tmp_path: Path) -> None:
    apt.add("a", "1:1-1", "bookworm")
    packages = Archive().packages("a")
    told: list[tuple[str, int, int]] = []
    (path,) = Archive().download(
        packages, tmp_path / "in", what="a", progress=lambda *step: told.append(step)
    )
    assert sha256_of(path) == packages[0].sha256
    assert told == [("a", packages[0].size // 2, packages[0].size)]


def test_other_content_is_refused(apt: FakeApt, tmp_path: Path) -> None:
    apt.add("a", "1-1", "bookworm")
    packages = Archive().packages("a")
    (apt.root / "pool" / "a_1-1_amd64.deb").write_bytes(b"something else")
    with pytest.raises(FetchFailed, match="did not arrive with the sha256"):
        Archive().download(packages, tmp_path / "in", what="a")
    assert not list((tmp_path / "in").iterdir())
    assert not list((Archive().root / "partial").iterdir()), "the next try starts anew"


def test_nothing_arrived(apt: FakeApt, tmp_path: Path) -> None:
    apt.add("a", "1-1", "bookworm")
    packages = Archive().packages("a")
    apt.answer("download", "exit 0\n")
    with pytest.raises(FetchFailed, match="did not arrive"):
        Archive().download(packages, tmp_path / "in", what="a")


def test_mirror_that_lost_the_file(apt: FakeApt, tmp_path: Path) -> None:
    apt.add("a", "1-1", "bookworm")
    packages = Archive().packages("a")
    apt.answer("download", "echo 'E: Failed to fetch a.deb  404  Not Found' >&2; exit 100\n")
    with pytest.raises(FetchFailed, match="404"):
        Archive().download(packages, tmp_path / "in", what="a")


def test_killed_download_is_not_taken_for_whole(apt: FakeApt, tmp_path: Path) -> None:
    apt.add("a", "1-1", "bookworm")
    Archive().refresh()
    apt.answer("download", "echo half > a_1-1_amd64.deb; kill -9 $PPID; exit 1\n")
    program = (
        "import sys; from pathlib import Path; import harness.apt as apt\n"
        "archive = apt.Archive()\n"
        "archive.download(archive.packages('a'), Path(sys.argv[1]), what='a')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "in")], check=False)
    assert done.returncode == -9
    assert (Archive().root / "partial" / "a_1-1_amd64.deb").read_text() == "half\n"
    assert not list((tmp_path / "in").iterdir())
    apt.answer("download", "")
    packages = Archive().packages("a")
    (path,) = Archive().download(packages, tmp_path / "in", what="a")
    assert sha256_of(path) == packages[0].sha256


def test_what_another_killed_download_left_is_removed(apt: FakeApt, tmp_path: Path) -> None:
    apt.add("a", "1-1", "bookworm")
    packages = Archive().packages("a")
    work = Archive().root / "partial"
    work.mkdir()
    for name in ("a_1-1_amd64.deb", "b_1-1_amd64.deb"):
        (work / name).write_text("half")
    apt.answer("download", 'ls > "$FAKE/found"\n')
    Archive().download(packages, tmp_path / "in", what="a")
    assert (apt.root / "found").read_text() == "a_1-1_amd64.deb\n", "this one goes on"


def test_interrupted_download_ends_apt(apt: FakeApt, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    apt.add("a", "1-1", "bookworm")
    packages = Archive().packages("a")
    apt.answer("download", "exec sleep 600\n")
    with pytest.raises(KeyboardInterrupt):
        Archive().download(packages, tmp_path / "in", what="a", progress=interrupt)
    Archive().refresh(force=True)  # would wait for an apt that lives on


def test_sweep_removes_what_was_never_taken_up_again(apt: FakeApt) -> None:
    partial = Archive().root / "partial"
    partial.mkdir()
    (partial / "a.deb").touch()
    Archive().sweep()
    assert not list(partial.iterdir())
