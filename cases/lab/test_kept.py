"""What is kept of cases that do not pass, and what can be done with it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import signal
import socket
import subprocess
import sys

from lab_tools import LATE_S
from pytest_runs import Session, kept

from harness.machine.watcher import PANICKED

KEPT = {
    *("report.html", "run.json", "ledger.json", "console.log", "dmesg.txt"),
    *("trace.pftrace.gz", "trace.jsonl", "injected.pcap", "delivered.pcap"),
    *("why.txt", "qemu.txt", "repeat.txt", "guest.state.gz", "guest.json"),
}


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
