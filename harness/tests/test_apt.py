from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import filelock
import pytest

import harness.apt.mirrors
import harness.landing
from harness.apt import Archive, own_codename
from harness.apt.mirrors import Source, pick_mirrors
from harness.deb import unpack, version_key
from harness.errors import CacheError, FetchFailed, ToolMissing
from harness.landing import (
    cache_errors,
    land_directory,
    sha256_of,
    sweep,
    take_away,
    write_atomically,
)
from harness.tests.fakes import FakeApt, make_ar, make_deb


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


def updates(apt: FakeApt) -> int:
    return sum(" update" in line for line in apt.log)


# The mirror


def test_own_archive_is_told_from_a_third_party() -> None:
    sources = [
        Source("third/", "bookworm", "main", "Vendor"),
        Source("own/", "bookworm", "main", "Debian"),
        Source("own/", "bookworm-updates", "main", "Debian"),
        Source("vendor-sec/", "bookworm-security", "main", "Vendor"),
        Source("sec/", "bookworm-security", "main", "Debian"),
    ]
    assert pick_mirrors(sources, "bookworm") == ("own/", "sec/")


def test_own_archive_is_told_before_any_index_is_there() -> None:
    sources = [
        Source("third/", "bookworm", "main", "$(ORIGIN)"),
        Source("own/", "bookworm", "main", "$(ORIGIN)"),
        Source("own/", "bookworm-updates", "main", "$(ORIGIN)"),
    ]
    assert pick_mirrors(sources, "bookworm") == ("own/", None)


def test_no_debian_archive() -> None:
    with pytest.raises(FetchFailed, match="not configured for a Debian archive"):
        pick_mirrors([Source("x/", "noble", "universe", "Ubuntu")], "noble")


def test_own_codename_is_a_word() -> None:
    assert own_codename().replace("-", "").isalnum() or not own_codename()


# The indices


def test_private_source_list_is_signed_and_complete(apt: FakeApt) -> None:
    Archive().refresh()
    lines = (Archive().root / "sources.list").read_text().splitlines()
    assert all("signed-by=" in line and line.endswith(" main") for line in lines)
    suites = [line.split()[-2] for line in lines]
    assert {"bullseye", "trixie-backports", "experimental", "bookworm-security"} <= set(suites)
    assert len(suites) == len(set(suites))
    (security,) = [line for line in lines if " trixie-security " in line]
    assert "mirror:/security/" in security


def test_fresh_indices_are_not_brought_again(apt: FakeApt) -> None:
    first = Archive().refresh()
    assert Archive().refresh() == first
    assert updates(apt) == 1
    Archive().refresh(force=True)
    assert updates(apt) == 2


def test_suite_that_the_mirror_lacks_is_noted(apt: FakeApt) -> None:
    apt.answer("update.code", "100\n")
    apt.answer("update.err", "E: The repository 'x sid Release' does not have a Release file.\n")
    notes = Archive().refresh()
    assert "sid: the mirror does not carry it" in notes
    assert not any(note.startswith("trixie-backports") for note in notes)
    assert Archive().age() < 100


def test_unreachable_mirror_without_indices(apt: FakeApt) -> None:
    apt.answer("update.code", "100\n")
    apt.answer("update.out", "Err:1 mirror:/debian bookworm InRelease\n")
    apt.answer("update.err", "E: Failed to fetch mirror:/debian  Could not connect\n")
    apt.answer("targets", "Packages|mirror:/debian/|bookworm|main|Debian\n")
    with pytest.raises(FetchFailed, match="Could not connect"):
        Archive().refresh()


def test_unreachable_mirror_with_old_indices(apt: FakeApt) -> None:
    apt.answer("update.code", "100\n")
    apt.answer("update.out", "Err:1 mirror:/debian bookworm InRelease\n")
    apt.answer("update.err", "E: Failed to fetch mirror:/debian  Could not connect\n")
    assert "does not answer" in Archive().refresh()[-1]
    Archive().refresh()
    assert updates(apt) == 2, "it was asked again"


def test_full_disk(apt: FakeApt) -> None:
    apt.answer("update.code", "100\n")
    apt.answer("update.err", "E: Write error - write (28: No space left on device)\n")
    with pytest.raises(CacheError, match="filled the disk"):
        Archive().refresh()


def test_no_apt(apt: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolMissing, match="there is no apt-get") as caught:
        Archive().refresh()
    assert "path:BZIMAGE" in caught.value.remedy


def test_no_keyring(apt: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.apt.mirrors, "KEYRINGS", (Path("/nonexistent/keyring"),))
    with pytest.raises(ToolMissing, match="keyring"):
        Archive().refresh()


def test_cache_that_cannot_be_written(apt: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(apt.root / "log"))
    with pytest.raises(CacheError, match="cannot make"):
        Archive()


def test_packages_come_with_their_suites(apt: FakeApt) -> None:
    apt.add("linux-image-1", "1-1", "bookworm", depends="kmod")
    suite = "mirror:/s bookworm-security/main amd64 Packages"
    apt.add_to("madison.d/linux-image-1", f" linux-image-1 | 1-1 | {suite}\n")
    # What only dpkg's status knows has no checksum and no suite.
    apt.add_to("show.d/linux-image-1", "Package: linux-image-1\nVersion: 2\n")
    (package,) = Archive().packages("linux-.*")
    assert package.suites == ("bookworm", "bookworm-security")
    assert (package.name, package.version, package.depends) == ("linux-image-1", "1-1", "kmod")


def test_closure_is_read_from_the_simulation(apt: FakeApt) -> None:
    apt.add("qemu", "1:7-1", "bookworm")
    apt.add("qemu", "1:10-1~bpo12+1", "bookworm-backports")
    apt.add("qemu", "1:11-1", "trixie-backports")
    apt.add("libx", "2-1", "bookworm")
    apt.add("liby", "3-1", "bookworm")
    apt.add("seabios", "1-1", "bookworm")
    apt.answer(
        "plan",
        "Inst libx (2-1 Debian:12/oldstable [amd64])\n"
        "Inst liby:amd64 [2-9] (3-1 Debian:12/oldstable [amd64]) []\n"
        "Inst qemu (1:10-1~bpo12+1 Debian Backports:x [amd64])\n"
        "Conf libx (2-1 Debian:12/oldstable [amd64])\n",
    )
    found = Archive().closure("qemu", "bookworm", always=("seabios",))
    assert [package.name for package in found] == ["seabios", "libx", "liby", "qemu"]
    assert found[-1].version == "1:10-1~bpo12+1"
    (simulated,) = [line for line in apt.log if "--simulate" in line]
    assert "--target-release bookworm-backports" in simulated


def test_closure_of_nothing(apt: FakeApt) -> None:
    with pytest.raises(FetchFailed, match="no qemu for bookworm"):
        Archive().closure("qemu", "bookworm")


# Downloads


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


# Packages


VERSIONS = (
    "1.0~rc1-1",
    "1.0-1~bpo12+1",
    "1.0-1",
    "1.0-1+b1",
    "1.0-2",
    "1.0a-1",
    "1.0+deb13-1",
    "1.2-1",
    "1.10-1",
    "7.3~rc7-1~exp1",
    "7.3-1",
    "7.3.4-1~bpo13+1",
    "7.3.4-1",
    "1:0.1",
)


def test_versions_are_ordered() -> None:
    assert sorted(reversed(VERSIONS), key=version_key) == list(VERSIONS)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="no dpkg to compare with")
def test_versions_are_ordered_as_dpkg_does() -> None:
    for low, high in pairwise(VERSIONS):
        subprocess.run(["dpkg", "--compare-versions", low, "lt", high], check=True)


def test_unpack(tmp_path: Path) -> None:
    deb = tmp_path / "x.deb"
    deb.write_bytes(make_deb({"usr/bin/x": b"#!", "usr/lib/y": b"data", "usr/lib/z": "y"}))
    into = tmp_path / "into"
    into.mkdir()
    unpack(deb, into, lambda path: None if path.endswith("x") else path.replace("usr/", ""))
    assert (into / "lib/z").readlink() == Path("y")
    assert (into / "lib/z").read_bytes() == b"data"
    assert not (into / "bin").exists()
    unpack(deb, into)
    assert (into / "usr/bin/x").stat().st_mode & 0o777 == 0o755


def test_unpack_hard_link(tmp_path: Path) -> None:
    deb = tmp_path / "x.deb"
    deb.write_bytes(make_deb({"a": b"one", "b": "=./a"}))
    into = tmp_path / "into"
    into.mkdir()
    unpack(deb, into)
    assert (into / "b").read_text() == "one"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"not an archive at all", "cannot be unpacked"),
        (make_ar({"debian-binary": b"2.0\n"}), "no data.tar"),
        (make_deb({"x": bytes(100_000)})[:-60], "cannot be unpacked"),
        (make_deb({"../../x": b""}), "outside its root"),
    ],
)
def test_unpack_refuses(tmp_path: Path, content: bytes, complaint: str) -> None:
    deb = tmp_path / "x.deb"
    deb.write_bytes(content)
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(FetchFailed, match=complaint):
        unpack(deb, into)


# Landing


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
