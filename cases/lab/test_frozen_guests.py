"""Snapshots of real guests: damaged, shared, and left behind by harnesses that were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from lab_tools import LATE_S, Cache, wait_until

import harness.machine.machine
from harness.errors import GuestError, QemuFailed
from harness.lab import Lab
from harness.machine.qemu import find_qemu
from harness.machine.snapshot import _checksum, _seal, freeze, thaw
from harness.machine.topology import Topology
from harness.steering import Plan, Steering
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.guest import Guest

SMALL = Topology(cpus=2, memory_mib=256)
HARNESS = """\
import sys
from harness.lab import Lab
from harness.machine.topology import Topology

with Lab(say=print).open(sys.argv[1], Topology(cpus=2, memory_mib=256)) as guest:
    print("up", guest.machine.process.pid, flush=True)
    sys.stdin.read()
    print(len(guest.read("/proc/uptime").split()), guest.splats())
"""


def is_healthy(guest: Guest) -> bool:
    """Tell whether a guest works: a run's frames go through it, and it does not complain."""
    run = Steering(guest, Plan((1,), {1: 64}))
    run.send([run.flow(20)])
    return run.close().verdict is Verdict.PASS and guest.splats() == []


@pytest.fixture
def frozen(a_kernel: str, module_cache: Cache) -> Path:
    """The directory of a snapshot, in a cache that this module's tests use in turn."""
    Lab().open(a_kernel, SMALL).machine.close()
    (name,) = module_cache.snapshots()
    return module_cache.root / "snapshots" / name


def test_a_guest_without_a_snapshot(a_kernel: str, cache: Cache) -> None:
    with Lab(snapshots=False).open(a_kernel, SMALL) as guest:
        assert is_healthy(guest)
        assert "-incoming" not in guest.machine.argv
        assert cache.snapshots() == []
    assert cache.clean()


def test_clones_of_one_snapshot_do_not_see_each_other(a_kernel: str, frozen: Path) -> None:
    lab = Lab()
    before = (frozen / "ram").stat()
    with lab.open(a_kernel, SMALL) as one, lab.open(a_kernel, SMALL) as other:
        one.write("/tmp/mine", "mine")
        with pytest.raises(GuestError, match="open /tmp/mine"):
            other.read("/tmp/mine")
        assert is_healthy(one)
        assert is_healthy(other)
    after = (frozen / "ram").stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def test_a_clone_does_not_announce_itself(a_kernel: str, frozen: Path) -> None:
    """QEMU would have a guest that has moved send ARP, at once and four times more."""
    with Lab().open(a_kernel, SMALL) as guest:
        assert is_healthy(guest)
        sent = guest.read("/sys/class/net/eth0/statistics/tx_packets")
        assert int(sent) == 0


def test_a_guest_that_is_frozen_where_it_stands_runs_on(a_kernel: str, tmp_path: Path) -> None:
    lab, state = Lab(), tmp_path / "state"
    with lab.open(a_kernel, SMALL) as guest:
        guest.write("/tmp/mine", "mine")
        freeze(guest.machine, state)
        assert guest.machine.qmp("query-status")["status"] == "postmigrate"
    assert state.stat().st_size < SMALL.memory_mib << 19
    for _ in range(2):  # each who looks has a guest of his own
        with thaw(lab.recipe(a_kernel, SMALL), state) as machine:
            assert machine.link.call("read", "/tmp/mine", 64) == b"mine"
            machine.link.call("write", "/tmp/mine", b"yours")


@pytest.mark.parametrize("snapshots", [True, False])
def test_a_closed_guest_leaves_nothing(
    a_kernel: str, frozen: Path, module_cache: Cache, snapshots: bool
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    guest = Lab(snapshots=snapshots).open(a_kernel, SMALL)
    assert guest.machine.qmp("query-status")["status"] == "running"
    guest.machine.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert module_cache.qemus() == []
    assert module_cache.runs() == []


# Damage


def flip(path: Path) -> None:
    """Flip a bit where there is data."""
    with path.open("r+b") as file:
        at = os.lseek(file.fileno(), path.stat().st_size // 3, os.SEEK_DATA)
        (byte,) = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def halve_and_seal(path: Path) -> None:
    """Damage a state before its checksum is taken: only QEMU can tell."""
    halve(path)
    described = path.parent / "meta.json"
    meta = json.loads(described.read_text())
    del meta["seal"]
    meta["files"]["state"] = _checksum(path)
    described.write_text(json.dumps({**meta, "seal": _seal(meta)}))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("ram", flip),
        ("state", halve),
        ("meta.json", lambda path: path.write_bytes(os.urandom(500))),
        ("state", halve_and_seal),
    ],
    ids=["ram", "state", "meta", "sealed"],
)
def test_a_damaged_snapshot_is_made_anew(
    a_kernel: str,
    frozen: Path,
    module_cache: Cache,
    name: str,
    damage: Callable[[Path], object],
) -> None:
    damage(frozen / name)
    damaged = (frozen / name).stat().st_ctime_ns
    with Lab().open(a_kernel, SMALL) as guest:
        assert is_healthy(guest)
    assert module_cache.snapshots() == [frozen.name]
    assert (frozen / name).stat().st_ctime_ns > damaged
    assert module_cache.runs() == []


def test_a_clone_that_hangs_is_given_up(
    a_kernel: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find_qemu()
    wrapper = tmp_path / "qemu"
    environment = " ".join(f"{name}='{value}'" for name, value in real.env.items())
    wrapper.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-incoming*) exec sleep 1000 ;; esac\n'
        f'{environment} exec {real.binary} {" ".join(real.args)} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("CPUMAP_LAB_QEMU", str(wrapper))
    monkeypatch.setattr(harness.machine.machine, "MONITOR_S", 5.0)
    with pytest.raises(QemuFailed, match="QEMU did not answer migrate-set-capabilities within"):
        Lab().open(a_kernel, SMALL)
    assert cache.qemus() == []
    assert cache.runs() == []


# Two at once


def test_two_harnesses_make_one_snapshot(a_kernel: str, cache: Cache) -> None:
    both = [start(a_kernel) for _ in range(2)]
    said = [other.communicate("", timeout=4 * LATE_S)[0].splitlines() for other in both]
    assert [other.returncode for other in both] == [0, 0]
    for lines in said:
        assert lines[-1] == "2 []"
    assert sum(line.startswith("freezing") for lines in said for line in lines) == 1
    assert len(cache.snapshots()) == 1
    assert cache.runs() == []


def start(spec: str) -> subprocess.Popen[str]:
    """Start another harness that opens a guest and waits for its standard input to end."""
    return subprocess.Popen(
        [sys.executable, "-c", HARNESS, spec],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


# Harnesses that are killed


def end(other: subprocess.Popen[str], number: int) -> str:
    """End another harness by a signal to all of its group, as a terminal does; return its words."""
    os.killpg(other.pid, number)
    return other.communicate(timeout=LATE_S)[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_harness_that_is_killed_while_a_template_boots(
    a_kernel: str, cache: Cache, number: int
) -> None:
    other = start(a_kernel)
    wait_until(lambda: bool(cache.qemus() and cache.snapshots()))
    words = end(other, number)
    wait_until(lambda: cache.qemus() == [])
    if number == signal.SIGINT:  # it had time to clean up
        assert "KeyboardInterrupt" in words
        assert cache.clean()
    else:
        assert cache.runs() != []
        assert [name[-5:] for name in cache.snapshots()] == [".part"]
    Lab()
    assert cache.runs() == []
    with Lab().open(a_kernel, SMALL) as guest:
        assert is_healthy(guest)
        assert len(cache.runs()) == len(cache.snapshots()) == 1
    assert cache.runs() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("up", [False, True])
def test_a_harness_that_is_killed_with_a_clone(
    a_kernel: str, frozen: Path, module_cache: Cache, number: int, up: bool
) -> None:
    other = start(a_kernel)
    if up:
        assert other.stdout is not None
        assert other.stdout.readline().startswith("up ")
    else:
        wait_until(lambda: module_cache.qemus() != [])
    end(other, number)
    wait_until(lambda: module_cache.qemus() == [])
    assert (module_cache.runs() == []) == (number == signal.SIGINT)
    with Lab().open(a_kernel, SMALL) as guest:
        assert is_healthy(guest)
        assert len(module_cache.runs()) == 1
    assert module_cache.snapshots() == [frozen.name]
