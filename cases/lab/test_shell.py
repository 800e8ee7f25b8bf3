"""A prompt in a fresh guest, in the one that a failed run left, and a login while a run goes on."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pytest
from lab_tools import LATE_S, Cache

from harness.lab import Lab
from harness.scenario.load import load_scenarios
from harness.scenario.runner import Watch, run_scenario
from harness.sshd import Door
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

SCENARIO = """\
name: wrong
cpus: 2
memory_mib: 256
entries: [{cpu: 1, qsize: 128}]
traffic: [{frames: 64}]
"""
SMALL = ("--cpus", "2", "--memory", "256")
LAB = (sys.executable, "-c", "from harness.cli import main; main()")


STARTED: list[subprocess.Popen[str] | pexpect.spawn[str]] = []
"""The shells of a test."""


@pytest.fixture(autouse=True)
def ended(module_cache: Cache) -> Iterator[None]:
    """Let a test that fails take its shells with it, before their cache is looked at."""
    yield
    while STARTED:
        shell = STARTED.pop()
        if isinstance(shell, subprocess.Popen):
            shell.terminate()
            shell.communicate(timeout=LATE_S)
        elif shell.isalive():
            shell.kill(signal.SIGTERM)
            shell.expect(pexpect.EOF)
            shell.close()


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start `cpumap-lab shell`, its standard input a pipe."""
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    process: subprocess.Popen[str]
    process = subprocess.Popen([*LAB, "shell", *arguments], text=True, **pipes)  # type: ignore[call-overload]
    STARTED.append(process)
    return process


def shell(*arguments: str, given: str = "") -> tuple[int, str, str]:
    """Run `cpumap-lab shell` and return its status, what it printed, and its errors."""
    process = start(*arguments)
    out, errors = process.communicate(given, timeout=2 * LATE_S)
    return process.returncode, out, errors


@pytest.fixture(scope="module")
def failed_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the results of a failed run."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def failed(a_kernel: str, module_cache: Cache, failed_root: Path, tmp_path: Path) -> Path:
    """The results of a run that failed, for its expectation was wrong."""
    if not list(failed_root.iterdir()):
        file = tmp_path / "wrong.yaml"
        file.write_text(SCENARIO + "expect: {delivered: 63}\n")
        (scenario,) = load_scenarios(file, {})
        outcome = run_scenario(Lab(), scenario, a_kernel, root=failed_root)
        assert outcome.record.verdict is Verdict.FAIL, outcome.record.reasons
    (directory,) = failed_root.iterdir()
    return directory


def map_id(failed: Path) -> str:
    """Return the id of a run's cpumap, as its trace has it."""
    events = map(json.loads, (failed / "trace.jsonl").read_text().splitlines())
    (number,) = {event["map_id"] for event in events if event["event"] == "xdp_cpumap_enqueue"}
    return str(number)


def digests(directory: Path) -> dict[str, int]:
    """Return what tells whether a directory has been touched."""
    return {path.name: path.stat().st_mtime_ns for path in (directory, *directory.iterdir())}


def test_a_fresh_guest(a_kernel: str, module_cache: Cache) -> None:
    release = Lab().kernel(a_kernel).release
    command = "uname -r; ls -d /sys/fs/bpf; nproc; echo said >&2; exit 3"
    status, out, errors = shell("--kernel", a_kernel, *SMALL, "--", command)
    assert out.splitlines() == [release, "/sys/fs/bpf", "2"]
    assert errors.splitlines()[-1] == "said"
    assert status == 3
    status, out, _ = shell("--kernel", a_kernel, *SMALL, given="a=word\necho $a\n")
    assert (status, out) == (0, "word\n")
    assert module_cache.runs() == []


def test_a_failed_run_is_resumed_by_two_at_once(failed: Path, module_cache: Cache) -> None:
    before, number = digests(failed), map_id(failed)
    person = pexpect.spawn(
        LAB[0],
        [*LAB[1:], "shell", "--failed", str(failed)],
        timeout=LATE_S,
        dimensions=(33, 99),
        encoding="utf-8",
    )
    STARTED.append(person)
    person.expect_exact("delivered: expected 63, found 64")
    person.expect_exact(":/ # ")
    other = start("--failed", str(failed), "--", f"bpftool map show id {number}; echo; read word")
    assert other.stdout is not None
    assert other.stdout.readline().startswith(f"{number}: cpumap ")
    person.sendline(f"stty size; bpftool map show id {number}")
    person.expect_exact("33 99\r\n")
    person.expect_exact(f"{number}: cpumap ")
    person.expect_exact(":/ # ")
    person.sendline("sh -c 'echo star\"\"ted; exec sleep 1000'")
    person.expect_exact("started\r\n")
    person.sendintr()
    person.expect_exact(":/ # ")
    person.sendline("echo sta''tus $?")
    person.expect_exact("status 130")
    assert len(module_cache.qemus()) == 2
    person.sendline("exit 4")
    person.expect(pexpect.EOF)
    person.close()
    assert person.exitstatus == 4
    other.communicate("\n", timeout=LATE_S)
    assert other.returncode == 0
    assert module_cache.runs() == []
    assert digests(failed) == before


def test_a_debugger_in_a_failed_guest(failed: Path) -> None:
    command = "grep ' _text$' /proc/kallsyms; read word"
    process = start("--failed", str(failed), "--gdb", "--", command)
    assert process.stdout is not None
    text = int(process.stdout.readline().split()[0], 16)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    stub = next(found[1] for line in lines if (found := re.search(r"target remote ([^']+)'", line)))
    told = next(found[1] for line in lines if (found := re.search(r"_text is at (0x\w+)", line)))
    assert int(told, 16) == text
    with socket.socket(socket.AF_UNIX) as gdb:
        gdb.settimeout(LATE_S)
        gdb.connect(stub)
        gdb.sendall(b"+$?#3f")  # why did you stop?
        answer = b""
        while b"$T05thread:" not in answer:
            answer += gdb.recv(4096)
        gdb.sendall(b"+$D#44")  # detach: it goes on
        process.communicate("\n", timeout=LATE_S)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_shell_that_is_ended(failed: Path, module_cache: Cache, number: int) -> None:
    process = start("--failed", str(failed), "--", "echo up; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    (qemu,) = module_cache.qemus()
    process.send_signal(number)
    process.communicate(timeout=LATE_S)
    if number != signal.SIGKILL:
        assert not Path(f"/proc/{qemu}").exists()
        assert module_cache.runs() == []


def test_a_guest_that_ends_under_the_shell(a_kernel: str, module_cache: Cache) -> None:
    status, _, errors = shell("--kernel", a_kernel, *SMALL, "--", "echo b >/proc/sysrq-trigger")
    assert status == 125
    assert "error: the guest has restarted by itself" in errors
    assert "Traceback" not in errors


def test_a_login_while_a_scenario_runs_and_when_it_has_failed(
    a_kernel: str, module_cache: Cache, tmp_path: Path
) -> None:
    file = tmp_path / "login.yaml"
    file.write_text(SCENARIO + "ssh: true\nexpect: {delivered: 63}\n")
    (scenario,) = load_scenarios(file, {})
    seen: dict[str, object] = {}

    def log_in(told: str) -> None:
        door = find_door(told)
        seen["modes"] = {stat.S_IMODE(path.stat().st_mode) for path in door.directory.iterdir()}
        with door.connect() as client, client.open_sftp() as sftp:
            seen["release"] = client.exec_command("uname -r")[1].read().decode().strip()
            sftp.get("/proc/version", str(tmp_path / "version"))

    outcome = run_scenario(Lab(), scenario, a_kernel, Watch(tell=log_in), root=tmp_path / "kept")
    assert outcome.record.reasons == ("delivered: expected 63 frames, found 64",)
    release = Lab().kernel(a_kernel).release
    assert seen == {"release": release, "modes": {0o600}}
    assert release in (tmp_path / "version").read_text()
    assert module_cache.runs() == []
    (results,) = (tmp_path / "kept").iterdir()
    process = start("--failed", str(results), "--ssh", "--", "read word")
    assert process.stderr is not None
    told = next(line for line in process.stderr if line.startswith("ssh: "))
    with find_door(told).connect() as client:
        assert client.exec_command("uname -r")[1].read().decode().strip() == release
    process.communicate("\n", timeout=LATE_S)
    assert process.returncode == 0


def find_door(told: str) -> Door:
    """Return the way into the guest that a line with ssh's command tells of."""
    directory = Path(re.findall(r"-F (\S+)/ssh_config", told)[0])
    port = re.findall(r"Port (\d+)", (directory / "ssh_config").read_text())[0]
    return Door(int(port), directory)
