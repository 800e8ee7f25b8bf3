"""The parts of the guest, and what builds them."""

from __future__ import annotations

import os
import sys
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
from harness.doctor.build import check_guest, check_libarchive, check_toolchain, parts
from harness.doctor.item import Item, State
from harness.tests.doctor.tools import one, program

if TYPE_CHECKING:
    from pathlib import Path


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
