from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.errors import QemuFailed, ToolMissing
from harness.machine.process import Process, leashed
from harness.patience import wait_until
from harness.tests.fakes import LATE_S, ends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


HARNESS = """\
import sys, time
from pathlib import Path
from harness.machine.process import Process

where = Path(sys.argv[1])
process = Process(sys.argv[2:], env={}, pass_fds=(), log=where / "log")
try:
    print(process.pid, flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    (where / "interrupted").touch()
finally:
    process.kill()
"""

LISTENER = """\
import signal, sys
from pathlib import Path

where = Path(sys.argv[1])
signal.signal(signal.SIGINT, lambda *_: (where / "heard").touch())
(where / "ready").touch()
while True:
    signal.pause()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(*argv: str, **how: object) -> Process:
        given = {"env": {}, "pass_fds": (), "log": tmp_path / "log", **how}
        started.append(Process(argv, **given))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_a_program_that_ends(start: Callable[..., Process]) -> None:
    process = start("sh", "-c", "echo out; echo err >&2; exit 3")
    assert process.wait(LATE_S) == 3
    assert not process.alive()
    assert process.output() == "out\nerr"
    assert process.failure() == "QEMU ended with status 3: out\nerr"


def test_of_much_that_it_printed_the_last_lines_are_told(start: Callable[..., Process]) -> None:
    process = start("sh", "-c", "seq 1 9; exit 1")
    process.wait(LATE_S)
    assert process.failure() == "QEMU ended with status 1: 5\n6\n7\n8\n9"


def test_a_program_that_runs(start: Callable[..., Process]) -> None:
    process = start("sleep", "1000")
    assert process.alive()
    assert process.wait(0.01) is None
    assert process.failure() == "QEMU still runs"
    process.kill()
    assert not process.alive()
    assert ends(process.pid)
    assert process.failure() == "QEMU ended with signal SIGKILL: it printed nothing"


def test_the_pid_is_the_programs_own(start: Callable[..., Process]) -> None:
    process = start("sh", "-c", "echo $$; exec sleep 1000")
    assert wait_until(process.output, LATE_S)
    assert process.output() == str(process.pid)


def test_killing_twice_does_no_harm(start: Callable[..., Process]) -> None:
    process = start("true")
    process.kill()
    process.kill()


def test_a_program_that_a_signal_ends(start: Callable[..., Process]) -> None:
    process = start("sh", "-c", "kill -ABRT $$")
    assert process.wait(LATE_S) == -signal.SIGABRT
    assert process.failure() == "QEMU ended with signal SIGABRT: it printed nothing"


def test_a_program_that_a_real_time_signal_ends(start: Callable[..., Process]) -> None:
    process = start("sh", "-c", "kill -40 $$")
    assert process.wait(LATE_S) == -40
    assert process.failure() == "QEMU ended with signal 40: it printed nothing"


def test_the_environment_is_added_to(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_OLD", "stays")
    process = start("sh", "-c", "echo $OF_OLD $NEW", env={"NEW": "comes"})
    process.wait(LATE_S)
    assert process.output() == "stays comes"


def test_only_descriptors_passed_are_inherited(start: Callable[..., Process]) -> None:
    passed, kept = os.pipe(), os.pipe()
    for descriptor in (*passed, *kept):
        os.set_inheritable(descriptor, True)
    process = start("sh", "-c", "ls /proc/self/fd", pass_fds=passed)
    process.wait(LATE_S)
    inherited = set(map(int, process.output().split()))
    assert inherited >= set(passed)
    assert not inherited & set(kept)
    for descriptor in (*passed, *kept):
        os.close(descriptor)


def test_standard_input_is_empty(start: Callable[..., Process]) -> None:
    assert start("cat").wait(LATE_S) == 0


def test_a_missing_program_is_named(start: Callable[..., Process]) -> None:
    process = start("/nonexistent/qemu")
    assert process.wait(LATE_S) == 127
    assert "/nonexistent/qemu" in process.failure()


def test_without_setpriv(start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolMissing, match="no setpriv") as caught:
        start("true")
    assert caught.value.remedy == "install util-linux"


def test_a_program_that_cannot_be_started(
    start: Callable[..., Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "setpriv").write_text("no program, and no #!")
    (tmp_path / "setpriv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QemuFailed, match="cannot start true"):
        start("true")


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Start another harness in a session of its own; return it and the pid of its QEMU."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*argv: str) -> tuple[subprocess.Popen[str], int]:
        whole = [sys.executable, "-c", HARNESS, str(tmp_path), *argv]
        other = subprocess.Popen(whole, stdout=subprocess.PIPE, text=True, start_new_session=True)
        begun.append(other)
        assert other.stdout is not None
        return other, int(other.stdout.readline())

    yield begin
    for other in begun:
        other.kill()
        other.communicate()


def test_it_dies_with_a_killed_harness(
    harness: Callable[..., tuple[subprocess.Popen[str], int]],
) -> None:
    other, pid = harness("sleep", "1000")
    assert wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", LATE_S)
    other.kill()
    other.wait()
    assert ends(pid)


@pytest.mark.parametrize("lives", [True, False])
def test_it_does_not_start_when_the_harness_has_died_already(lives: bool, tmp_path: Path) -> None:
    parent = os.getpid() if lives else 1 << 30
    subprocess.run(leashed(["touch", str(tmp_path / "ran")], parent), check=False)
    assert (tmp_path / "ran").exists() == lives


def test_a_ctrl_c_is_for_the_harness(
    harness: Callable[..., tuple[subprocess.Popen[str], int]], tmp_path: Path
) -> None:
    """QEMU would take the SIGINT of its process group for an order to leave at once."""
    other, pid = harness(sys.executable, "-c", LISTENER, str(tmp_path))
    assert wait_until((tmp_path / "ready").exists, LATE_S)
    os.killpg(other.pid, signal.SIGINT)
    assert other.wait(LATE_S) == 0
    assert (tmp_path / "interrupted").exists()
    assert ends(pid)
    assert not (tmp_path / "heard").exists()
