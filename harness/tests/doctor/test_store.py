"""Kernels, the disk, and what dead runs left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import harness.apt.mirrors
import harness.doctor.build
import harness.doctor.cli
import harness.doctor.emulator
import harness.doctor.host
import harness.doctor.item
import harness.doctor.store
import harness.kernels
import harness.machine.accel
import harness.machine.qemu
from harness.doctor.item import State
from harness.doctor.store import check_disk, check_kernels, check_leftovers, find_orphans
from harness.errors import FetchFailed
from harness.kernels import Cached
from harness.tests.doctor.tools import ALIVE, DEAD, one


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose apt is in order; the keyring's path."""
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(harness.apt.mirrors, "KEYRINGS", (keyring,))
    monkeypatch.setattr(harness.apt.mirrors, "machine_sources", list)
    monkeypatch.setattr(harness.apt.mirrors, "pick_mirrors", lambda *_: ("uri", None))
    return keyring


def test_kernels_can_be_fetched(mirror: Path) -> None:
    apt, kernels = check_kernels()
    assert (apt.state, kernels.state) == (State.OK, State.OK)
    assert "never brought" in apt.seen
    assert "kernels fetch" in kernels.remedy


def test_packages_are_not_trusted_without_a_keyring(mirror: Path) -> None:
    mirror.unlink()
    apt, _ = check_kernels()
    assert apt.state == State.MISSING
    assert "debian-archive-keyring" in apt.remedy


def test_no_archive_is_no_harm_where_kernels_are(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> list[object]:
        raise FetchFailed("no Debian archive", remedy="use a kernel of your own")

    monkeypatch.setattr(harness.apt.mirrors, "machine_sources", none)
    apt, _ = check_kernels()
    assert (apt.state, apt.remedy) == (State.MISSING, "use a kernel of your own")
    here = Cached("debian:6.1", Path(), "6.1.0-56-cloud-amd64", "6.1.192-2", "cloud", 90_000_000)
    monkeypatch.setattr(harness.kernels, "cached", lambda: [here])
    apt, kernels = check_kernels()
    assert apt.state == State.WARN
    assert "1 in the cache (90 MB): 6.1.0-56-cloud-amd64" in kernels.seen


@pytest.mark.parametrize(
    ("free", "state"),
    [(100_000_000, State.MISSING), (2_000_000_000, State.WARN), (50_000_000_000, State.OK)],
)
def test_the_disk(monkeypatch: pytest.MonkeyPatch, cache: Path, free: int, state: State) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    item = one(check_disk)
    assert item.state == state
    assert bool(item.remedy) == (state != State.OK)
    assert str(cache) in item.seen


def test_each_part_of_the_cache_is_weighed_without_its_holes(cache: Path) -> None:
    (cache / "snapshots" / "one").mkdir(parents=True)
    with (cache / "snapshots" / "one" / "ram").open("wb") as file:
        file.truncate(1 << 30)
        file.write(b"x" * 1_000_000)
    parts = {item.name: item for item in check_disk()}
    assert set(parts) == {"disk", "cache: snapshots"}
    assert parts["cache: snapshots"].seen == "1 MB"
    assert "snapshots prune" in parts["cache: snapshots"].remedy


def guest_argv(owner: int) -> list[str]:
    console = f"file,id=console,path=/c/run/{owner}-abc/console.log"
    port = "virtserialport,chardev=agent,name=cpumap-lab.agent"
    return ["/q/qemu-system-x86_64", "-device", port, "-chardev", console]


def fake_process(proc: Path, pid: int, argv: list[str]) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "cmdline").write_bytes("\0".join([*argv, ""]).encode())


def test_orphans_are_ours_and_have_no_harness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc = tmp_path / "proc"
    monkeypatch.setattr(harness.doctor.store, "PROC", proc)
    fake_process(proc, 100, ["python3", "-m", "pytest"])
    fake_process(proc, 200, guest_argv(owner=100))
    fake_process(proc, 300, guest_argv(owner=77))
    fake_process(proc, 400, ["/usr/bin/qemu-system-x86_64", "-m", "1G"])
    fake_process(proc, 500, ["grep", "name=cpumap-lab.agent"])
    (proc / "600").mkdir()  # a process that has ended since it was listed
    (proc / "meminfo").touch()
    assert find_orphans() == [300]
    _, orphans = check_leftovers()
    assert (orphans.state, orphans.remedy) == (State.WARN, "kill 300")


def test_dead_runs_are_told_from_live_ones(cache: Path) -> None:
    for name in (f"{ALIVE}-a", f"{DEAD}-b", "accel-c"):
        (cache / "run" / name).mkdir(parents=True)
    runs, _ = check_leftovers()
    assert runs.state == State.WARN
    assert runs.seen == f"1 directories of dead runs: {DEAD}-b"
