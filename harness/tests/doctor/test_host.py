"""Memory, cores, a tap and virtme-ng."""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING

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
from harness.doctor.host import check_cores, check_memory, check_tap, check_virtme
from harness.doctor.item import State
from harness.tests.doctor.tools import one

if TYPE_CHECKING:
    from pathlib import Path


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
