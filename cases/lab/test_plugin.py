"""The pytest plugin, by running pytest on small cases and reading its report."""

from __future__ import annotations

import base64
import gzip
import json
import re
import signal
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_tools import LATE_S

from harness.machine.watcher import PANICKED

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = '''
import os
import re
import socket
import pytest
from harness.errors import TrafficError
from harness.shell.gdb import open_stub
from harness.traffic.frames import build_frames
from harness.traffic.socket import SocketInjector


def test_passes(lab):
    lab.steer(1)
    lab.send(frames=10)


def test_fails(lab):
    lab.steer(1)
    lab.send(frames=10)
    assert lab.close().delivered == 11


def test_fails_by_pytest(lab):
    with pytest.raises(ZeroDivisionError):
        lab.steer(1)


def test_skips(lab):
    pytest.skip("not today")


@pytest.mark.xfail(reason="known", strict=True)
def test_expected_to_fail(lab):
    assert lab.cpus == "none"


def test_doubled_frame(lab):
    """It asserts nothing; one frame comes twice."""
    run = hurried(lab.steer(1))
    twin = build_frames([run.flow(frames=1)]).data[0]
    lab.send(frames=10)
    lab.guest.machine.nics[0].send(twin)


def test_missing_frame(lab, monkeypatch):
    """It asserts nothing; one frame is said to be sent, and is not."""
    run = hurried(lab.steer(1))
    lab.send(frames=10)
    monkeypatch.setattr(SocketInjector, "send", lambda _, frames, **__: len(frames))
    lab.send(frames=1)


def test_lost_events(lab):
    lab.guest.write("/sys/kernel/tracing/buffer_size_kb", "4")
    hurried(lab.steer(1))
    lab.send(frames=20000)


def test_lost_guest(lab):
    lab.steer(1)
    os.kill(lab.guest.machine.process.pid, 9)
    lab.send(frames=10)


def test_error_of_the_lab(lab):
    raise TrafficError("the cable is cut")


def test_wrong_request(lab):
    lab.steer(1)
    lab.steer(1)


def test_crash_that_fails(lab):
    lab.guest.write("/proc/sysrq-trigger", "c")
    lab.steer(1)


def test_crash_that_hides_behind_an_assertion(lab):
    complain(lab)
    assert False, "the case has another opinion"


def test_crash_that_passes(lab):
    complain(lab)


RUNS = []


def test_int3_once(lab):
    """Its first run is spoiled, and hides that behind an assertion."""
    RUNS.append(lab)
    if len(RUNS) == 1:
        plant_int3(lab, "__x64_sys_bpf")
        with pytest.raises(ZeroDivisionError):
            lab.steer(1)
    lab.steer(1)
    lab.send(frames=10)
    assert lab.guest is not RUNS[0].guest


def test_int3_twice(lab):
    plant_int3(lab, "__x64_sys_bpf")
    lab.steer(1)


def test_leftover_kthread(lab, monkeypatch):
    run = lab.steer(1)
    run.dismantle = lambda: None
    monkeypatch.setattr("harness.casework.GONE_S", 1.0)


@pytest.mark.machine(cpus=1, memory_mib=256, append="rdinit=/nope root=/dev/nope")
def test_boot_that_panics(lab):
    pass


@pytest.mark.machine(cpus=99)
def test_guest_that_cannot_be(lab):
    pass


def test_without_a_guest():
    pass


def hurried(run):
    """Wait for a rest that does not come only as long as a loaded machine needs for it."""
    run._rest_s = 5.0
    return run


def plant_int3(lab, function):
    """Have the kernel run into an int3 that it did not put there, as a late one is to it."""
    symbols = lab.guest.calls.link.call("read", "/proc/kallsyms", 32 << 20).decode()
    address = re.search(f"([0-9a-f]+) T {function}\\n", symbols)[1]
    with socket.socket(socket.AF_UNIX) as gdb:
        gdb.settimeout(60)
        gdb.connect(str(open_stub(lab.guest.machine)))
        for packet in (f"M{address},1:cc", "D"):
            gdb.sendall(f"+${packet}#{sum(packet.encode()) % 256:02x}".encode())
            said = ""
            while "$OK#" not in said:
                said += gdb.recv(1).decode() or pytest.fail(f"{packet}: the stub said {said!r}")


def complain(lab):
    """A real report that stops nothing: a worker waits too long for a kthread that is held."""
    lab.guest.write("/proc/sys/kernel/hung_task_timeout_secs", "1")
    run = lab.steer(1)
    with lab.hold(1):
        run.cpumap.remove(1)
        lab.wait_for(lambda: "blocked for more than" in lab.guest.dmesg())
'''


@dataclass
class Outcome:
    """One case's outcome in pytest's own report."""

    kind: str
    told: str = ""
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str | None:
        """The lab's verdict, if it came to one."""
        return self.properties.get("verdict")


@dataclass
class Session:
    """What one run of pytest came to."""

    status: int
    output: str
    outcomes: dict[str, Outcome]


@pytest.fixture(scope="module")
def run_pytest(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Session]:
    """Return a way to run pytest on some cases, far from this suite's own configuration."""

    def run(cases: str, *options: str) -> Session:
        directory: Path = tmp_path_factory.mktemp("cases")
        (directory / "test_them.py").write_text(cases)
        report = directory / "report.xml"
        whole = [sys.executable, "-m", "pytest", f"--rootdir={directory}", f"--junitxml={report}"]
        whole += ["-p", "no:cacheprovider", f"--artifacts={directory / 'kept'}"]
        whole += [f"--page={directory / 'page.html'}", *options]
        whole += [str(directory)]
        done = subprocess.run(whole, capture_output=True, text=True, check=False, cwd=directory)
        cases_run = ET.parse(report).iter("testcase") if report.exists() else ()
        outcomes = {case.get("name", ""): outcome(case) for case in cases_run}
        return Session(done.returncode, done.stdout + done.stderr, outcomes)

    return run


def outcome(case: ET.Element) -> Outcome:
    properties = {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
    for kind in ("failure", "error", "skipped"):
        if (found := case.find(kind)) is not None:
            return Outcome(kind, f"{found.get('message', '')}\n{found.text or ''}", properties)
    return Outcome("passed", "", properties)


@pytest.fixture(scope="module")
def session(pytestconfig: pytest.Config, run_pytest: Callable[..., Session]) -> Session:
    """One run of all of them, on one kernel."""
    spec = (pytestconfig.getoption("--kernel") or [None])[0]
    done = run_pytest(CASES, *(["--kernel", spec] if spec else []))
    assert done.outcomes, done.output
    return Session(
        done.status,
        done.output,
        {name.partition("[")[0].removeprefix("test_"): o for name, o in done.outcomes.items()},
    )


def test_every_case_has_its_outcome(session: Session) -> None:
    assert session.status == 1
    assert set(session.outcomes) == {
        line[len("def test_") :].partition("(")[0]
        for line in CASES.splitlines()
        if line.startswith("def test_")
    }
    assert "INTERNALERROR" not in session.output


@pytest.mark.parametrize(
    ("case", "kind", "verdict"),
    [
        ("passes", "passed", "pass"),
        ("fails", "failure", "fail"),
        ("fails_by_pytest", "failure", "fail"),
        ("skips", "skipped", None),
        ("expected_to_fail", "skipped", "fail"),
        ("doubled_frame", "failure", "fail"),
        ("missing_frame", "failure", "fail"),
        ("lost_events", "failure", "invalid"),
        ("lost_guest", "failure", "invalid"),
        ("error_of_the_lab", "failure", "invalid"),
        ("wrong_request", "failure", None),
        ("crash_that_fails", "failure", "crash"),
        ("crash_that_hides_behind_an_assertion", "failure", "crash"),
        ("crash_that_passes", "failure", "crash"),
        ("int3_once", "passed", "pass"),
        ("int3_twice", "failure", "crash"),
        ("leftover_kthread", "failure", "fail"),
        ("boot_that_panics", "error", "crash"),
        ("guest_that_cannot_be", "error", None),
        ("without_a_guest", "passed", None),
    ],
)
def test_the_verdict(session: Session, case: str, kind: str, verdict: str | None) -> None:
    outcome = session.outcomes[case]
    assert (outcome.kind, outcome.verdict) == (kind, verdict), outcome.told


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("fails", "assert 10 == 11"),
        ("fails_by_pytest", "DID NOT RAISE"),
        ("doubled_frame", "verdict: fail"),
        ("missing_frame", "verdict: fail"),
        ("lost_events", "trace events were lost: the books prove nothing"),
        ("lost_guest", "QEMU"),
        ("error_of_the_lab", "the cable is cut"),
        ("wrong_request", "a case steers once"),
        ("crash_that_fails", "panic: Kernel panic - not syncing: sysrq triggered crash"),
        ("crash_that_hides_behind_an_assertion", "hung task: INFO: task kworker/"),
        ("crash_that_passes", "hung task: INFO: task kworker/"),
        ("int3_twice", "int3: 0000 [#1]"),
        ("leftover_kthread", "kthreads that outlive their map: cpumap/1/map:"),
        ("boot_that_panics", "The kernel said: Kernel panic - not syncing: VFS"),
        ("guest_that_cannot_be", "99 CPUs: a guest has 1 to 64"),
    ],
)
def test_the_reason(session: Session, case: str, told: str) -> None:
    assert told in session.outcomes[case].told


def test_what_the_emulator_spoiled_is_run_again_and_said_to_be(session: Session) -> None:
    for case in ("int3_once", "int3_twice"):
        again = session.outcomes[case].properties["again"]
        assert "a fault of the emulator's; kept in " in again
        first = Path(again.rpartition(" kept in ")[2])
        assert (first / "why.txt").read_text().startswith("verdict: invalid\noops: ")
        assert re.search(
            rf"^test_them.py::test_{case}\[.*\]: {re.escape(again)}$", session.output, re.M
        )
    assert len(re.findall("a fault of the emulator", session.output)) == 2


def test_what_the_lab_says_needs_no_traceback(session: Session) -> None:
    for case in ("lost_events", "lost_guest", "error_of_the_lab", "crash_that_passes"):
        assert "Traceback" not in session.outcomes[case].told
        assert ".py:" not in session.outcomes[case].told


def test_the_console_of_a_guest_that_died_is_kept(session: Session) -> None:
    assert "console of the guest" in session.output
    assert "sysrq: Trigger a crash" in session.output
    assert "command line of QEMU" in session.output


KEPT = {
    *("report.html", "run.json", "ledger.json", "console.log", "dmesg.txt"),
    *("trace.pftrace.gz", "trace.jsonl", "injected.pcap", "delivered.pcap"),
    *("why.txt", "qemu.txt", "repeat.txt", "guest.state.gz", "guest.json"),
}


def kept(session: Session, case: str) -> Path:
    return Path(session.outcomes[case].properties["artifacts"])


def test_what_is_left_of_a_failure_is_kept(session: Session) -> None:
    directory = kept(session, "fails")
    assert {path.name for path in directory.iterdir()} == KEPT
    assert (directory / "why.txt").read_text().startswith("verdict: fail\nassert 10 == 11")
    repeat = (directory / "repeat.txt").read_text().strip()
    assert re.fullmatch(r"pytest 'test_them.py::test_fails\[.*\]' --kernel \S+", repeat)
    assert f"{directory}\nrepeat: {repeat}" in session.output
    assert len((directory / "trace.jsonl").read_text().splitlines()) >= 4
    threads = json.loads((directory / "run.json").read_text())["qemu"]["threads"]
    assert f"thread={threads}" in (directory / "qemu.txt").read_text()
    for case in ("passes", "skips", "expected_to_fail"):
        assert "artifacts" not in session.outcomes[case].properties


def test_what_is_left_of_a_failure_is_told_on_the_page(session: Session) -> None:
    html = (kept(session, "fails").parents[1] / "page.html").read_text()
    number = re.search(r'href="#run-(\d+)" aria-label="fail: test_them.py: fails on ', html)
    bundle = re.search(r'<script type="application/json" id="bundle">(.*?)</script>', html)
    assert number
    assert bundle
    packed = json.loads(bundle[1])["stories"][number[1]]
    story = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert story["record"]["reasons"][0].startswith("assert 10 == 11")
    assert story["events"]["k"]
    assert "Linux version" in story["texts"][1]["text"]


def test_what_is_left_of_a_guest_that_is_gone_is_kept(session: Session) -> None:
    panic = kept(session, "crash_that_fails")
    assert "sysrq: Trigger a crash" in (panic / "console.log").read_text()
    assert (panic / "guest.state.gz").exists()
    assert json.loads((panic / "guest.json").read_text())["ended"] == PANICKED
    lost = session.outcomes["lost_guest"]
    assert lost.properties["hang"] == "QEMU dead"
    directory = kept(session, "lost_guest")
    assert "QEMU dead: QEMU ended with signal SIGKILL" in (directory / "hang.txt").read_text()
    assert "QEMU dead: QEMU ended with signal SIGKILL" in (directory / "why.txt").read_text()
    assert json.loads((directory / "run.json").read_text())["hang"] == "QEMU dead"
    assert not (directory / "guest.state.gz").exists()


def test_a_guest_that_panicked_can_be_looked_at_by_a_debugger(session: Session) -> None:
    panic = str(kept(session, "crash_that_fails"))
    lab = [sys.executable, "-c", "from harness.cli import main; main()", "shell", "--failed", panic]
    told = subprocess.run([*lab, "--", "dmesg"], capture_output=True, text=True, check=False)
    assert told.returncode == 125
    assert "\n  panic: Kernel panic - not syncing: sysrq triggered crash\n" in told.stderr
    assert f"gives no prompt: {PANICKED}, and cannot run on" in told.stderr
    with subprocess.Popen([*lab, "--gdb"], stderr=subprocess.PIPE, text=True) as shell:
        assert shell.stderr is not None
        for line in shell.stderr:
            if found := re.search(r"target remote ([^']+)'", line):
                stub = found[1]
            if "no prompt: " in line:
                break
        with socket.socket(socket.AF_UNIX) as gdb:
            gdb.settimeout(LATE_S)
            gdb.connect(stub)
            gdb.sendall(b"+$g#67")  # the registers
            answer = gdb.recv(4096)
            while b"#" not in answer:
                answer += gdb.recv(4096)
        assert len(answer) > 16 * 16
        shell.send_signal(signal.SIGINT)
        shell.communicate(timeout=LATE_S)
    assert shell.returncode == 130


def test_a_guest_that_could_not_be_judged_is_kept(session: Session) -> None:
    assert {path.name for path in kept(session, "error_of_the_lab").iterdir()} >= {
        *("guest.state.gz", "guest.json")
    }
    assert "hang" not in session.outcomes["error_of_the_lab"].properties


def test_a_guest_that_was_waited_for_in_vain_says_why(session: Session) -> None:
    left = session.outcomes["leftover_kthread"]
    assert left.properties["hang"] == "guest idle"
    assert "\nguest idle: the agent answers and no CPU runs" in left.told
    told = (kept(session, "leftover_kthread") / "hang.txt").read_text()
    assert "cpumap/1/map:" in told
    assert ": cpu_map_kthread_run < kthread < ret_from_fork" in told


def test_the_header_says_what_is_run_on(session: Session) -> None:
    lines = session.output.splitlines()
    assert any(re.match(r"QEMU: \d+\.\d+\.\d+ \(\w+\), (tcg|kvm)", line) for line in lines)
    assert any(re.match(r"kernel: \S+ = \d+\.\d+\.", line) for line in lines)


EMPTY = "def test_nothing(lab): print(lab.kernel)\n"


def test_two_kernels_run_every_case_twice(run_pytest: Callable[..., Session]) -> None:
    session = run_pytest(EMPTY, "--kernel", "debian:6.1", "--kernel", "debian:7.3")
    assert session.status == 0
    assert set(session.outcomes) == {"test_nothing[debian:6.1]", "test_nothing[debian:7.3]"}
    assert "kernel: debian:6.1 = 6.1.0-" in session.output
    assert "kernel: debian:7.3 = 7.3." in session.output


def test_a_case_says_what_guest_it_needs(a_kernel: str, run_pytest: Callable[..., Session]) -> None:
    cases = """
import pytest

@pytest.mark.machine(cpus=2, nics=2, append="quiet")
def test_marked(lab):
    assert list(lab.cpus) == [0, 1]
    assert set(lab.guest.ifindex) == {"lo", "eth0", "eth1"}
    assert lab.guest.read("/proc/cmdline").endswith("quiet sysrq_always_enabled\\n")

def test_unmarked(lab):
    assert list(lab.cpus) == [0, 1, 2]
"""
    options = ("--kernel", a_kernel, "--cpus", "3", "--append", "sysrq_always_enabled")
    session = run_pytest(cases, *options)
    assert session.status == 0, session.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--kernel", "nonsense:1"], "`nonsense:1` is no kernel spec"),
        (["--kernel", "path:/nonexistent"], "cannot read /nonexistent"),
        (["--cpus", "99"], "99 CPUs: a guest has 1 to 64"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once(
    run_pytest: Callable[..., Session], options: list[str], told: str
) -> None:
    session = run_pytest(EMPTY, *options)
    assert session.status == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {told}" in session.output
    assert "Traceback" not in session.output
    assert "INTERNALERROR" not in session.output


def test_a_cache_that_cannot_be_made_is_refused_at_once(
    run_pytest: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", "/proc/version/cache")
    session = run_pytest(EMPTY)
    assert session.status == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: cannot make the cache directory" in session.output
    assert "INTERNALERROR" not in session.output
