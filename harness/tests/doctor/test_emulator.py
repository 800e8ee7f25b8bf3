"""QEMU, the accelerator and user namespaces."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
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
from harness.apt import FRESH, Package
from harness.doctor.emulator import (
    check_accel,
    check_kvm,
    check_namespaces,
    check_qemu,
    check_util_linux,
)
from harness.doctor.item import State
from harness.machine.topology import Accel
from harness.tests.doctor.tools import one, program, qemu

if TYPE_CHECKING:
    from pathlib import Path


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
