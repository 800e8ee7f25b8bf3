from __future__ import annotations

import importlib.metadata
import io
import json
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from rich.console import Console

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
from harness.apt import FRESH, Package
from harness.doctor import doctor
from harness.doctor.build import check_guest, check_libarchive, check_toolchain, parts
from harness.doctor.cli import lines_of, table_of
from harness.doctor.emulator import (
    check_accel,
    check_kvm,
    check_namespaces,
    check_qemu,
    check_util_linux,
)
from harness.doctor.host import check_cores, check_memory, check_tap, check_virtme
from harness.doctor.item import Check, Item, State, examine, succeeds
from harness.doctor.store import check_disk, check_kernels, check_leftovers, find_orphans
from harness.errors import FetchFailed, ToolMissing
from harness.kernels import Cached
from harness.machine.qemu import Qemu
from harness.machine.topology import Accel

DEAD, ALIVE = 999_999_999, os.getpid()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of its own, empty so far."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def program(directory: Path, name: str, script: str = "exit 0") -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def one(check: Check) -> Item:
    (item,) = check()
    return item


def qemu(version: tuple[int, int, int] = (10, 0, 2), *, banner: str = "") -> Qemu:
    return Qemu(Path("/q"), version, banner, (), {}, "0" * 64, "cache")


# item


def test_a_failing_check_is_a_finding_with_the_errors_remedy() -> None:
    def check() -> list[Item]:
        raise ToolMissing("no such thing", remedy="get one")

    assert examine("thing", check) == [Item("thing", State.MISSING, "no such thing", "get one")]


def test_a_check_that_breaks_does_not_end_the_others() -> None:
    def check() -> list[Item]:
        raise AttributeError("undefined symbol: archive_read_new")

    (item,) = examine("thing", check)
    assert item.state == State.MISSING
    assert "archive_read_new" in item.seen


def test_a_program_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.doctor.item, "PROBE_S", 0.2)
    good, said = succeeds("sleep", "60")
    assert not good
    assert "no end within" in said


def test_what_a_program_said_last_is_told() -> None:
    assert succeeds("sh", "-c", "echo one; echo two >&2; exit 3") == (False, "two")
    assert succeeds("/nowhere/at/all") == (False, "No such file or directory")


# emulator


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An archive whose age and packages the test sets."""
    known = SimpleNamespace(age=lambda: 60.0, packages=lambda _: [])
    monkeypatch.setattr(harness.apt, "Archive", lambda: known)
    monkeypatch.setattr(harness.apt, "own_codename", lambda: "bookworm")
    return known


def offer(version: str, suite: str) -> Package:
    return Package("qemu-system-x86", version, (suite,), "0" * 64, 1)


def test_a_new_qemu_is_ok(monkeypatch: pytest.MonkeyPatch, archive: SimpleNamespace) -> None:
    monkeypatch.setattr(harness.machine.qemu, "find_qemu", qemu)
    item, _ = check_qemu()
    assert (item.state, item.remedy) == (State.OK, "")
    assert "10.0.2" in item.seen


def test_an_old_qemu_costs_speed(monkeypatch: pytest.MonkeyPatch, archive: SimpleNamespace) -> None:
    monkeypatch.setattr(harness.machine.qemu, "find_qemu", lambda: qemu((7, 2, 22)))
    item, _ = check_qemu()
    assert item.state == State.WARN
    assert "one thread" in item.seen
    assert "qemu fetch" in item.remedy


@pytest.mark.parametrize(
    ("version", "suite", "state", "word"),
    [
        ("1:10.0.2+ds-2~bpo12+1", "bookworm-backports", State.OK, "not newer"),
        ("1:10.1.0+ds-1~bpo12+1", "bookworm-backports", State.WARN, "newer than"),
        ("1:11.0.0-1", "sid", State.OK, "none for bookworm"),
    ],
)
def test_a_newer_qemu_in_the_own_suites_is_offered(
    monkeypatch: pytest.MonkeyPatch,
    archive: SimpleNamespace,
    version: str,
    suite: str,
    state: State,
    word: str,
) -> None:
    banner = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)"
    monkeypatch.setattr(harness.machine.qemu, "find_qemu", lambda: qemu(banner=banner))
    archive.packages = lambda _: [offer(version, suite)]
    _, item = check_qemu()
    assert item.state == state
    assert word in item.seen


@pytest.mark.parametrize(("age", "word"), [(float("inf"), "never"), (FRESH + 3600, "7 h old")])
def test_the_doctor_brings_no_indices(
    monkeypatch: pytest.MonkeyPatch, archive: SimpleNamespace, age: float, word: str
) -> None:
    monkeypatch.setattr(harness.machine.qemu, "find_qemu", qemu)
    archive.age = lambda: age
    archive.packages = lambda _: pytest.fail("asked the archive")
    _, item = check_qemu()
    assert item.state == State.OK
    assert word in item.seen


def test_the_doctor_does_not_wait_for_a_busy_archive(
    monkeypatch: pytest.MonkeyPatch, archive: SimpleNamespace
) -> None:
    monkeypatch.setattr(harness.machine.qemu, "find_qemu", qemu)
    monkeypatch.setattr(harness.doctor.emulator, "ARCHIVE_S", 0.05)

    def busy(_: str) -> list[Package]:
        released.wait(5)
        return []

    released = threading.Event()
    archive.packages = busy
    _, item = check_qemu()
    released.set()
    assert "busy" in item.seen


@pytest.mark.parametrize(("pace", "state"), [(1.0, State.OK), (3.4, State.WARN)])
def test_the_accelerator_says_why_and_how_slow(
    monkeypatch: pytest.MonkeyPatch, pace: float, state: State
) -> None:
    accel = Accel("tcg", "multi", "KVM fails the canary", pace=pace)
    monkeypatch.setattr(harness.machine.qemu, "find_qemu", qemu)
    monkeypatch.setattr(harness.machine.accel, "choose_accel", lambda _: accel)
    item = one(check_accel)
    assert item.state == state
    assert "KVM fails the canary" in item.seen
    assert ("3.4 times slower" in item.seen) == (state == State.WARN)


def test_kvm_absent_there_and_accessible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    monkeypatch.setattr(harness.doctor.emulator, "KVM_DEVICE", device)
    assert "absent" in one(check_kvm).seen
    device.touch()
    assert one(check_kvm).state == State.OK
    monkeypatch.setattr(os, "access", lambda *_: False)
    item = one(check_kvm)
    assert item.state == State.WARN
    assert "group kvm" in item.remedy


def test_user_namespaces_are_tried_not_believed(programs: Path) -> None:
    program(programs, "unshare", "echo 'unshare: Operation not permitted' >&2; exit 1")
    item = one(check_namespaces)
    assert item.state == State.WARN
    assert "Operation not permitted" in item.seen
    assert "max_user_namespaces" in item.remedy
    program(programs, "unshare", 'test "$*" = "--user --map-root-user --net true"')
    assert one(check_namespaces).state == State.OK


def test_setpriv_is_needed(programs: Path) -> None:
    program(programs, "flock")
    setpriv, flock = check_util_linux()
    assert (setpriv.state, setpriv.remedy) == (State.MISSING, "install util-linux")
    assert flock.state == State.OK


# build


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guest of a few empty sources, all built later than they were written."""
    sources, built = tmp_path / "guest", tmp_path / "built"
    for name in ("frame.h", "Makefile", "agent/main.c", "canary/canary.S", "bpf/steer.bpf.c"):
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        (sources / name).touch()
        os.utime(sources / name, (1000, 1000))
    monkeypatch.setattr(harness.doctor.build, "SOURCES", sources)
    monkeypatch.setattr(harness.doctor.build, "BUILT", built)
    built.mkdir()
    for target in parts():
        (built / target).touch()
        os.utime(built / target, (2000, 2000))
    return tmp_path


def test_all_parts_are_known(guest: Path) -> None:
    assert set(parts()) == {"agent", "canary", "steer.bpf.o"}
    assert one(check_guest).state == State.OK


@pytest.mark.parametrize(
    ("touched", "stale"),
    [
        ("agent/main.c", "agent"),
        ("bpf/steer.bpf.c", "steer.bpf.o"),
        ("frame.h", "agent, steer.bpf.o"),
        ("Makefile", "agent, canary, steer.bpf.o"),
    ],
)
def test_a_part_older_than_its_source_is_told(guest: Path, touched: str, stale: str) -> None:
    os.utime(guest / "guest" / touched, (3000, 3000))
    item = one(check_guest)
    assert item.state == State.WARN
    assert item.seen.endswith(f": {stale}")


def test_a_part_that_is_not_built_is_missing(guest: Path) -> None:
    (guest / "built" / "canary").unlink()
    item = one(check_guest)
    assert item.state == State.MISSING
    assert "canary" in item.seen
    assert "ci/setup" in item.remedy


def test_the_toolchain_is_needed_until_all_is_built(guest: Path, programs: Path) -> None:
    assert {item.state for item in check_toolchain()} == {State.WARN}
    (guest / "built" / "agent").unlink()
    items = {item.name: item for item in check_toolchain()}
    assert {item.state for item in items.values()} == {State.MISSING}
    assert items["libmsgpackc.a"].remedy == "install libmsgpack-dev"


def test_libraries_are_where_the_compiler_says(guest: Path, programs: Path) -> None:
    library = guest / "libbpf.a"
    library.touch()
    found = f'case $1 in *libbpf.a) echo {library} ;; *) echo "${{1#*=}}" ;; esac'
    program(programs, "gcc", found)
    items = {item.name: item for item in check_toolchain()}
    assert items["libbpf.a"] == Item("libbpf.a", State.OK, str(library))
    assert items["libelf.a"].state == State.WARN


def test_libarchive_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(check_libarchive).state == State.OK
    monkeypatch.setitem(sys.modules, "libarchive", None)
    item = one(check_libarchive)
    assert item.state == State.MISSING
    assert "libarchive13" in item.remedy


# store


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


# host


@pytest.mark.parametrize(
    ("kib", "state"), [(400 << 10, State.MISSING), (1 << 20, State.WARN), (8 << 20, State.OK)]
)
def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kib: int, state: State) -> None:
    info = tmp_path / "meminfo"
    info.write_text(f"MemTotal:       16777216 kB\nMemAvailable:   {kib} kB\n")
    monkeypatch.setattr(harness.doctor.host, "MEMINFO", info)
    item = one(check_memory)
    assert item.state == state
    assert "of 16.0 GiB" in item.seen


@pytest.mark.parametrize(
    ("cores", "load", "state"),
    [(1, 0.0, State.WARN), (2, 1.0, State.OK), (2, 4.5, State.WARN), (8, 4.5, State.OK)],
)
def test_cores(monkeypatch: pytest.MonkeyPatch, cores: int, load: float, state: State) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert one(check_cores).state == state


def test_a_tap_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(check_tap).state == State.OK
    monkeypatch.setenv("PATH", str(tmp_path))
    without = one(check_tap)
    assert (without.state, without.remedy) == (State.WARN, "install util-linux")
    assert "one queue each" in without.seen


def test_virtme_ng_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", absent)
    item = one(check_virtme)
    assert (item.state, "not installed" in item.seen) == (State.OK, True)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.42")
    monkeypatch.setattr("shutil.which", lambda tool, path: tool if tool == "busybox" else None)
    item = one(check_virtme)
    assert (item.state, item.remedy) == (State.WARN, "install kmod")
    monkeypatch.setattr("shutil.which", lambda tool, path: tool)
    assert one(check_virtme).state == State.OK


# the command


def run(monkeypatch: pytest.MonkeyPatch, *items: Item, json_: bool = False) -> tuple[int, str]:
    monkeypatch.setattr(harness.doctor.cli, "CHECKS", (("all", lambda: items),))
    result = CliRunner().invoke(doctor, ["--json"] if json_ else [])
    return result.exit_code, result.stdout


OK = Item("one", State.OK, "here")
WARN = Item("two", State.WARN, "old", "get a new one")
MISSING = Item("three", State.MISSING, "none", "get [one]")


def test_exit_status_is_125_only_when_something_needed_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(monkeypatch, OK, WARN)[0] == 0
    assert run(monkeypatch, OK, WARN, MISSING)[0] == 125


def test_json_has_each_item(monkeypatch: pytest.MonkeyPatch) -> None:
    status, out = run(monkeypatch, OK, MISSING, json_=True)
    assert status == 125
    assert json.loads(out) == {
        "ready": False,
        "items": [
            {"name": "one", "state": "ok", "seen": "here", "remedy": ""},
            {"name": "three", "state": "missing", "seen": "none", "remedy": "get [one]"},
        ],
    }


def test_plain_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, OK, WARN)[1].splitlines() == lines_of([OK, WARN])
    assert lines_of([WARN]) == ["warn    two: old", "          remedy: get a new one"]


def test_a_table_takes_text_for_text() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(table_of([MISSING]))
    assert "get [one]" in console.export_text()
