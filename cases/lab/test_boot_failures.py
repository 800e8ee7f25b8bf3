"""A guest that does not come up: one clear message, the right error, and nothing left behind."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import harness.guest
import harness.lab
from harness.errors import BootFailed, CacheError, ClockOff, KernelNotFound, QemuFailed, ToolMissing
from harness.judge import judge_error
from harness.lab import Lab
from harness.machine.topology import Topology
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab_tools import Cache

    from harness.agent.syscalls import Syscalls
    from harness.guest import Guest

SMALL = Topology(cpus=1, memory_mib=256)


@pytest.fixture
def bzimage(a_kernel: str, cache: Cache) -> bytes:
    return Lab().kernel(a_kernel).vmlinuz.read_bytes()


@pytest.fixture
def lab(cache: Cache) -> Lab:
    return Lab()


@pytest.fixture(params=[True, False], ids=["snapshot", "cold"])
def either(request: pytest.FixtureRequest, cache: Cache) -> Lab:
    """A lab that freezes and clones, and one that boots cold."""
    return Lab(snapshots=request.param)


def boot_fails(lab: Lab, spec: str, topology: Topology = SMALL) -> BootFailed:
    with pytest.raises(BootFailed) as caught:
        lab.open(spec, topology)
    error = caught.value
    assert error.exit_status == 125
    assert f"the last phase reached is {error.phase!r}" in error.message
    assert "did not boot: " in error.message
    last = error.message.split("\n")[-1]  # what a kernel is made to say comes after it
    assert last == "(nothing)" if not error.console else last in error.console
    return error


def boot_hangs(
    hurry: Callable[..., None], phase: str, boot: Callable[[], BootFailed], how: str
) -> BootFailed:
    """Boot with more and more patience for a phase, until the machine has come to its hang."""
    for seconds in (5.0, 20.0, 80.0):
        hurry(**{phase: seconds})
        error = boot()
        if error.hang and how in f"{error.console}\n{error.hang.summary}":
            break
    return error


# No kernel


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file or directory"),
        (b"", "an empty file"),
        (b"#!/bin/sh\nexit 0\n", "a script"),
        (b"\x7fELF" + bytes(2000), "a damaged ELF file"),
        (bytes(4096), "4096 bytes that begin with 00 00"),
    ],
)
def test_a_file_that_is_no_kernel(
    tmp_path: Path, cache: Cache, content: bytes | None, told: str
) -> None:
    path = tmp_path / "bzImage"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KernelNotFound, match=told) as caught:
        Lab().open(f"path:{path}", SMALL)
    assert str(path) in caught.value.message
    assert caught.value.exit_status == 2
    assert cache.clean()


def test_a_kernel_cut_in_half(tmp_path: Path, cache: Cache, bzimage: bytes) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage[: len(bzimage) // 2])
    with pytest.raises(KernelNotFound, match=f"is cut off: .* the file has {len(bzimage) // 2}"):
        Lab().open(f"path:{path}", SMALL)
    assert cache.clean()


def test_a_damaged_kernel(
    tmp_path: Path, cache: Cache, bzimage: bytes, lab: Lab, hurry: Callable[..., None]
) -> None:
    """Its own decompressor finds out, says so and halts."""
    path = tmp_path / "bzImage"
    middle = len(bzimage) // 2
    path.write_bytes(bzimage[:middle] + bytes(4096) + bzimage[middle + 4096 :])
    error = boot_hangs(hurry, "kernel", lambda: boot_fails(lab, f"path:{path}"), "System halted")
    assert error.phase == "firmware"
    assert not error.crashed
    assert "kernel was not reached within" in error.message
    assert "System halted" in error.console
    assert cache.clean()


# Kernels that die, or hang


def test_a_kernel_that_panics(a_kernel: str, cache: Cache, either: Lab) -> None:
    topology = Topology(cpus=1, memory_mib=256, append="rdinit=/nope root=/dev/nope")
    error = boot_fails(either, a_kernel, topology)
    assert error.phase == "kernel"
    assert error.crashed
    told = "Kernel panic - not syncing: VFS: Unable to mount root fs on"
    assert f"The kernel said: {told}" in error.message
    assert told in error.console
    assert "what was added to its command line" in error.remedy
    judgement = judge_error(error, [])
    assert judgement.verdict is Verdict.CRASH
    assert cache.clean()


def test_a_kernel_that_panics_when_it_is_made_ready(
    a_kernel: str, cache: Cache, either: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(calls: Syscalls, _: object) -> None:
        calls.link.call("write", "/proc/sysrq-trigger", b"c")

    monkeypatch.setattr(harness.guest, "check_clock", crash)
    error = boot_fails(either, a_kernel)
    assert error.phase == "agent"
    assert error.crashed
    assert "the link closed while waiting for 'write': the guest has panicked" in error.message
    assert "The kernel said: Kernel panic - not syncing: sysrq triggered crash" in error.message
    assert judge_error(error, []).verdict is Verdict.CRASH
    assert cache.clean()


def test_a_kernel_that_panics_in_each_clone(
    a_kernel: str, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(guest: Guest, _: int) -> None:
        guest.write("/proc/sysrq-trigger", "c")

    monkeypatch.setattr(harness.lab, "unplug_cpu", crash)
    error = boot_fails(lab, a_kernel, replace(SMALL, spare_cpus=1))
    assert error.phase == "agent"
    assert error.crashed
    assert judge_error(error, []).verdict is Verdict.CRASH


def test_an_init_that_ends(
    a_kernel: str, cache: Cache, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaver = tmp_path / "leaver"
    leaver.write_bytes(make_program(b"\x31\xff\xb8\x3c\x00\x00\x00\x0f\x05"))  # exit(0)
    monkeypatch.setattr(harness.lab, "built", lambda _: leaver)
    error = boot_fails(lab, a_kernel)
    assert error.phase == "kernel"
    assert error.crashed
    assert "The kernel said: Kernel panic - not syncing: Attempted to kill init!" in error.message
    assert cache.clean()


def test_a_kernel_that_waits_for_ever(
    a_kernel: str, cache: Cache, lab: Lab, hurry: Callable[..., None]
) -> None:
    topology = Topology(cpus=1, memory_mib=256, append="rdinit=/nope root=/dev/nope rootwait")
    error = boot_hangs(hurry, "init", lambda: boot_fails(lab, a_kernel, topology), "guest idle")
    assert error.phase == "kernel"
    assert not error.crashed
    assert "init was not reached within" in error.message
    assert error.hang is not None
    assert error.hang.summary.startswith("guest idle: no CPU runs")
    assert f"\n  {error.hang.summary}\n  remedy: " in str(error)
    assert judge_error(error, []).verdict is Verdict.INVALID
    assert cache.clean()


def test_an_init_that_does_nothing(
    a_kernel: str,
    cache: Cache,
    lab: Lab,
    hurry: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hurry(init=6.0)
    idle = tmp_path / "idle"
    idle.write_bytes(make_program(b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"))  # 1: pause(); goto 1
    monkeypatch.setattr(harness.lab, "built", lambda _: idle)
    error = boot_fails(lab, a_kernel)
    assert error.phase == "kernel"
    assert "init was not reached within" in error.message
    assert cache.clean()


def make_program(code: bytes) -> bytes:
    """Return a static x86-64 ELF program."""
    base, start = 0x400000, 64 + 56
    size = start + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 2, 62, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code


def test_an_agent_without_its_port(
    a_kernel: str, cache: Cache, lab: Lab, hurry: Callable[..., None]
) -> None:
    hurry(agent=3.0)
    no_console = "module_blacklist=virtio_console initcall_blacklist=virtio_console_init"
    error = boot_fails(lab, a_kernel, Topology(cpus=1, memory_mib=256, append=no_console))
    assert error.phase == "init"
    assert "agent was not reached within" in error.message
    assert cache.clean()


# QEMUs that are none


@pytest.fixture
def qemu(tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a way to use a QEMU that passes its probe, and then does something else."""
    cache.root.joinpath("accel").unlink()  # it has its own probe

    def use(then: str) -> None:
        path = tmp_path / "qemu"
        path.write_text(
            "#!/bin/sh\n"
            'case "$*" in\n'
            "*--version*) echo 'QEMU emulator version 10.0.2' ;;\n"
            "*isa-debug-exit*) exit 99 ;;\n"
            f"*) {then} ;;\n"
            "esac\n"
        )
        path.chmod(0o755)
        monkeypatch.setenv("CPUMAP_LAB_QEMU", str(path))

    return use


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("echo 'qemu: no such machine' >&2; exit 1", "status 1: qemu: no such machine"),
        ("exit 3", "status 3: it printed nothing"),
        ("kill -SEGV $$", "signal SIGSEGV: it printed nothing"),
        ("exit 0", "status 0: it printed nothing"),
    ],
)
def test_a_qemu_that_dies_at_its_start(
    a_kernel: str, cache: Cache, either: Lab, qemu: Callable[[str], None], then: str, told: str
) -> None:
    qemu(then)
    error = boot_fails(either, a_kernel)
    assert error.phase == "none"
    assert not error.crashed
    assert "it ended before firmware was reached (QEMU ended with s" in error.message
    assert told in error.message
    assert cache.clean()


def test_a_qemu_that_hangs(
    a_kernel: str,
    cache: Cache,
    lab: Lab,
    qemu: Callable[[str], None],
    hurry: Callable[..., None],
) -> None:
    hurry(firmware=0.5)
    qemu("exec sleep 1000")
    error = boot_fails(lab, a_kernel)
    assert error.phase == "none"
    assert "firmware was not reached within" in error.message
    assert error.hang is not None
    assert "QEMU dead: QEMU did not answer query-status within" in error.hang.summary
    assert cache.clean()


@pytest.mark.parametrize("signal", ["BUS", "XFSZ"])
def test_a_qemu_whose_ram_finds_no_room(
    a_kernel: str, cache: Cache, qemu: Callable[[str], None], signal: str
) -> None:
    """A full disk is a SIGBUS for who writes to memory that a file is behind."""
    qemu(f"kill -{signal} $$")
    with pytest.raises(CacheError, match="no room for the guest's memory") as caught:
        Lab().open(a_kernel, SMALL)
    assert caught.value.exit_status == 125
    assert "free some space" in caught.value.remedy
    assert cache.clean()


def test_a_qemu_that_is_not_there(
    a_kernel: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUMAP_LAB_QEMU", "/nonexistent/qemu")
    with pytest.raises(ToolMissing, match="CPUMAP_LAB_QEMU names no program: /nonexistent/qemu"):
        Lab().open(a_kernel, SMALL)
    assert cache.clean()


def test_a_qemu_that_runs_no_code(
    a_kernel: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.root.joinpath("accel").unlink()
    path = tmp_path / "qemu"
    path.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo QEMU emulator version 10.0.2 && exit\n'
        "echo no TCG here >&2; exit 1\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("CPUMAP_LAB_QEMU", str(path))
    with pytest.raises(QemuFailed, match="even under TCG: status 1: no TCG here"):
        Lab().open(a_kernel, SMALL)
    assert cache.clean()


# No room, no right


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """Return a way to bound the files that this process and its children can write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def bound(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield bound
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "told"),
    [(1 << 16, "cannot write .*cpio"), (1 << 26, "no room for the guest's memory")],
)
def test_no_room(
    a_kernel: str, cache: Cache, largest_file: Callable[[int], None], size: int, told: str
) -> None:
    Lab().kernel(a_kernel)
    largest_file(size)
    with pytest.raises(CacheError, match=told) as caught:
        Lab().open(a_kernel, SMALL)
    assert caught.value.exit_status == 125
    assert cache.clean()
    assert list((cache.root / "images").glob(".*")) == []


def test_a_cache_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", "/proc/version/cache")
    with pytest.raises(CacheError, match="cannot make the cache directory /proc/version") as caught:
        Lab()
    assert "set CPUMAP_LAB_CACHE" in caught.value.remedy


OPEN = """\
import sys
from harness.errors import LabError
from harness.lab import Lab
from harness.machine.topology import Topology

try:
    Lab().open(sys.argv[1], Topology(cpus=1, memory_mib=256))
except LabError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_status)
"""
OBEY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
"""What makes the permissions of files hold for root, too."""


@pytest.mark.parametrize("room", ["", "run", "images", "snapshots", "accel"])
def test_a_cache_that_cannot_be_written(a_kernel: str, cache: Cache, room: str) -> None:
    if room == "accel":
        (cache.root / room).unlink()
    path = cache.root / room
    path.mkdir(exist_ok=True)
    path.chmod(0o555)
    whole = [*(OBEY if os.geteuid() == 0 else []), sys.executable, "-c", OPEN, a_kernel]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    path.chmod(0o755)
    assert done.stdout.startswith("CacheError cannot "), done.stderr
    assert str(path) in done.stdout
    assert "remedy: set CPUMAP_LAB_CACHE to a directory that you can write" in done.stdout
    assert done.returncode == 125
    assert cache.clean()


def test_a_clock_that_runs_away(kernel_spec: str) -> None:
    """A starved host can make a kernel calibrate its TSC wrongly: here it is told a wrong rate."""
    with pytest.raises(ClockOff, match="the guest's clock went on by"):
        Lab(snapshots=False).open(kernel_spec, Topology(append="tsc_early_khz=1000000"))
