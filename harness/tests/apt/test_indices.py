"""The private indices, and what is asked of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import harness.apt.mirrors
import harness.landing
from harness.apt import Archive
from harness.errors import CacheError, FetchFailed, ToolMissing

if TYPE_CHECKING:
    from harness.tests.fakes import FakeApt


def updates(apt: FakeApt) -> int:
    return sum(" update" in line for line in apt.log)


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


def test_the_configuration_outlives_a_link_to_the_directory(apt: FakeApt, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "cache/apt").symlink_to(tmp_path / "real")
    Archive().refresh()
    assert f'"{tmp_path}/cache/' not in (tmp_path / "real/apt.conf").read_text()
    assert updates(apt) == 1


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
