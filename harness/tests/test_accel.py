"""The choice of the accelerator, with QEMUs that are shell scripts."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import harness.machine.accel
from harness.errors import QemuFailed, ToolMissing
from harness.machine.accel import CANARY_STATUS, KVM_LIMIT_S, REFERENCE_S, TCG_LIMIT_S, choose_accel
from harness.machine.process import Process
from harness.machine.qemu import Qemu

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = f"exit {CANARY_STATUS}"
HANG = "exec sleep 1000"
ABORT = "echo 'error: failed to set MSR 0x10a' >&2; echo more >&2; kill -ABRT $$"


class Clock:
    """Time that passes only when a canary ends: as long as the script said it took."""

    def __init__(self, took: Path) -> None:
        self._took = took

    def monotonic(self) -> float:
        return float(self._took.read_text()) if self._took.exists() else 0.0


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    canary = tmp_path / "canary"
    canary.write_bytes(b"\x7fELF")
    monkeypatch.setattr(harness.machine.accel, "built", lambda _: canary)
    kvm = tmp_path / "kvm"
    kvm.touch()
    monkeypatch.setattr(harness.machine.accel, "KVM_DEVICE", kvm)
    return tmp_path


@pytest.fixture
def qemu(where: Path) -> Callable[..., Qemu]:
    """Make a QEMU that does one thing under TCG and another under KVM."""

    def make(tcg: str, kvm: str = GOOD, version: tuple[int, int, int] = (10, 0, 2)) -> Qemu:
        binary = where / "qemu"
        binary.write_text(
            f'#!/bin/sh\nwhere={where}\necho "$*" >> "$where/ran"\n'
            f'case "$*" in *"-accel kvm"*) {kvm} ;; *) {tcg} ;; esac\n'
        )
        binary.chmod(0o755)
        banner = "QEMU emulator version " + ".".join(map(str, version))
        return Qemu(binary, version, banner, ("-L", "/firmware"), {}, "0" * 64, "path")

    return make


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The processes that were started."""
    processes: list[Process] = []

    def start(*args: Any, **how: Any) -> Process:
        processes.append(Process(*args, **how))
        return processes[-1]

    monkeypatch.setattr(harness.machine.accel, "Process", start)
    return processes


def runs(where: Path) -> list[str]:
    return (where / "ran").read_text().splitlines()


def takes(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass only where a script says so, with `echo SECONDS > "$where/took"`."""
    clock = Clock(where / "took")
    monkeypatch.setattr("harness.machine.accel.time.monotonic", clock.monotonic)


def test_kvm_if_it_is_the_quicker(
    where: Path, qemu: Callable[..., Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(where, monkeypatch)
    after = 'echo {} > "$where/took"; exit 99'
    accel = choose_accel(qemu(after.format(1.5), after.format(1.6)))
    assert (accel.name, accel.threads, accel.cpu, accel.pace) == ("kvm", "", "host", 1.0)
    assert accel.why == "KVM runs the canary in 0.10 s; TCG runs the 64-bit canary in 1.50 s"


def test_tcg_if_kvm_is_the_slower(
    where: Path, qemu: Callable[..., Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(where, monkeypatch)
    after = 'echo {} > "$where/took"; exit 99'
    accel = choose_accel(qemu(after.format(0.25), after.format(5.25)))
    assert (accel.name, accel.threads, accel.cpu, accel.pace) == ("tcg", "multi", "qemu64", 1.0)
    assert accel.why == ("KVM takes 5.00 s for the canary; TCG runs the 64-bit canary in 0.25 s")


def test_a_slow_machine_gets_later_deadlines(
    where: Path, qemu: Callable[..., Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(where, monkeypatch)
    accel = choose_accel(qemu(f'echo {REFERENCE_S * 7} > "$where/took"; exit 99', "exit 1"))
    assert accel.pace == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("kvm", "told"),
    [
        (ABORT, "signal SIGABRT: error: failed to set MSR 0x10a"),
        ("exit 1", "status 1"),
        ("exit 0", "status 0"),
        ("echo 'Could not access KVM kernel module' >&2; exit 1", "status 1: Could not access KVM"),
        ("kill -40 $$", "signal 40"),
    ],
)
def test_tcg_if_kvm_fails(qemu: Callable[..., Qemu], kvm: str, told: str) -> None:
    accel = choose_accel(qemu(GOOD, kvm))
    assert accel.name == "tcg"
    assert accel.why.startswith(f"KVM fails the canary ({told}")
    assert "more" not in accel.why
    assert "TCG runs the 64-bit canary in " in accel.why


def test_a_kvm_that_hangs_is_given_up_and_ended(
    started: list[Process], qemu: Callable[..., Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.machine.accel, "KVM_LIMIT_S", 0.2)
    accel = choose_accel(qemu(GOOD, HANG))
    assert accel.name == "tcg"
    assert re.match(r"KVM fails the canary \(no end within \d+ s\)", accel.why)
    assert len(started) == 2
    assert not any(process.alive() for process in started)


def test_a_tcg_that_hangs_is_given_up_and_ended(
    started: list[Process], qemu: Callable[..., Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.machine.accel, "TCG_LIMIT_S", 0.2)
    with pytest.raises(QemuFailed, match="does not run 64-bit code even under TCG: no end within"):
        choose_accel(qemu(HANG))
    (process,) = started  # KVM is not tried
    assert not process.alive()


def test_the_bounds_are_short() -> None:
    assert TCG_LIMIT_S <= 60
    assert KVM_LIMIT_S <= 5


def test_a_qemu_that_dies_is_named(qemu: Callable[..., Qemu], where: Path) -> None:
    with pytest.raises(QemuFailed) as caught:
        choose_accel(qemu(ABORT))
    assert caught.value.message == (
        f"{where}/qemu does not run 64-bit code even under TCG: "
        "signal SIGABRT: error: failed to set MSR 0x10a"
    )
    assert "qemu fetch" in caught.value.remedy


def test_without_kvm(qemu: Callable[..., Qemu], where: Path) -> None:
    (where / "kvm").unlink()
    accel = choose_accel(qemu(GOOD, HANG))
    assert accel.name == "tcg"
    assert accel.why.startswith("/dev/kvm is absent; TCG runs")
    assert len(runs(where)) == 1


def test_a_kvm_that_one_may_not_use(
    qemu: Callable[..., Qemu], where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(
        "harness.machine.accel.os.access",
        lambda path, mode: path != where / "kvm" and access(path, mode),
    )
    assert choose_accel(qemu(GOOD, HANG)).why.startswith("/dev/kvm is not accessible; TCG runs")


@pytest.mark.parametrize(
    ("version", "threads"),
    [((7, 2, 11), "single"), ((8, 0, 0), "multi"), ((10, 0, 2), "multi")],
)
def test_an_old_qemu_gets_one_thread(
    where: Path, qemu: Callable[..., Qemu], version: tuple[int, int, int], threads: str
) -> None:
    assert choose_accel(qemu(GOOD, "exit 1", version)).threads == threads
    assert f"-accel tcg,thread={threads} " in runs(where)[0]


def test_what_is_run_is_the_canary_with_qemus_own_options(
    where: Path, qemu: Callable[..., Qemu]
) -> None:
    choose_accel(qemu(GOOD))
    for line in runs(where):
        assert line.startswith("-L /firmware ")
        assert line.endswith(f"-kernel {where}/canary")
    assert "-accel kvm -cpu host " in runs(where)[1]


def test_the_answer_is_kept(where: Path, qemu: Callable[..., Qemu]) -> None:
    asked = qemu(GOOD, "exit 1")
    first = choose_accel(asked)
    assert choose_accel(asked) == first
    assert len(runs(where)) == 2


@pytest.mark.parametrize("changed", ["qemu", "canary", "boot"])
def test_the_answer_is_asked_anew_when(
    changed: str, where: Path, qemu: Callable[..., Qemu], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = qemu(GOOD, "exit 1")
    choose_accel(asked)
    if changed == "qemu":
        asked = dataclasses.replace(asked, sha256="1" * 64)
    elif changed == "canary":
        (where / "canary").write_bytes(b"another")
    else:
        read_text = Path.read_text
        monkeypatch.setattr(
            Path,
            "read_text",
            lambda path, *args: "boot" if path.name == "boot_id" else read_text(path, *args),
        )
    choose_accel(asked)
    assert len(runs(where)) == 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "tcg"}', '{"nonsense": 1}', "null"])
def test_a_damaged_answer_is_asked_anew(
    where: Path, qemu: Callable[..., Qemu], content: str
) -> None:
    asked = qemu(GOOD, "exit 1")
    choose_accel(asked)
    (kept,) = (where / "cache/accel").glob("*.json")
    kept.write_text(content)
    accel = choose_accel(asked)
    assert accel.name == "tcg"
    assert json.loads(kept.read_text()) == dataclasses.asdict(accel)
    assert len(runs(where)) == 4


def test_nothing_is_left_behind(where: Path, qemu: Callable[..., Qemu]) -> None:
    choose_accel(qemu(GOOD, ABORT))
    assert os.listdir(where / "cache/run") == []


def test_without_a_canary(
    qemu: Callable[..., Qemu], monkeypatch: pytest.MonkeyPatch, where: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(where / "cache"))
    monkeypatch.setattr("harness.paths.REPO", where)
    with pytest.raises(ToolMissing, match="has not been built"):
        choose_accel(qemu(GOOD))
