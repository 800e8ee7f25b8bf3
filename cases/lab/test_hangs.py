"""A guest that keeps the lab waiting is examined: each class of hang is told from the others."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import sys
from typing import TYPE_CHECKING

import pytest
from lab_tools import wait_until

import harness.shell.cli
from harness.agent.bpf import PROG_TEST_RUN, load_verdict, start_bpf
from harness.agent.syscalls import Buffer, Syscalls
from harness.casework import Casework
from harness.errors import AgentLost, GuestError, QemuSilent
from harness.judge import judge_error
from harness.machine.hang.findings import Kind
from harness.machine.hang.sysrq import parse_tasks
from harness.machine.topology import Topology
from harness.model.gates import UPDATE_WAITS
from harness.phases import Phases
from harness.shell.cli import Wish, enter
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.guest import Guest
    from harness.lab import Lab
    from harness.machine.hang.findings import Hang

AT_FDCWD, O_RDONLY, XDP_PASS = -100, 0, 2
ASIDE = 5
SCHED_FIFO, HIGHEST = 1, 99
FIFO = b"/tmp/fifo\0"


@pytest.fixture
def case(workshop: Lab, kernel_spec: str) -> Iterator[Casework]:
    """A case whose judgement the test looks at, instead of the plugin."""
    with workshop.open(kernel_spec, Topology()) as guest:
        yield Casework(guest)


@pytest.fixture
def guest(case: Casework) -> Guest:
    return case.guest


def given_up(wait: Callable[[], object]) -> Hang:
    """Return what was found out about a guest that did not answer in time."""
    with pytest.raises((AgentLost, QemuSilent)) as caught:
        wait()
    hang = caught.value.hang
    assert hang is not None
    assert f"\n  {hang.summary}" in str(caught.value)
    assert hang.text.startswith(f"{hang.summary}\nwaited for: ")
    return hang


def ask(guest: Guest) -> bool:
    """Ask the agent something; it has little time. Nothing that it says will do."""
    return not guest.calls.link.call("read", "/proc/uptime", 100, deadline_s=1.0)


def open_fifo(guest: Guest, task: int) -> Callable[[], object]:
    """Have a thread of the agent wait for a writer who never comes; return how to wait for it."""
    mkfifo = 0o010600
    guest.calls.must("mknod", FIFO, mkfifo, 0)
    calls = Syscalls(guest.calls.link, task)
    started = calls.start("openat", AT_FDCWD, FIFO, O_RDONLY)
    return lambda: calls.collect(started, deadline_s=1.0)


def test_a_guest_that_waits_for_what_never_comes(guest: Guest) -> None:
    hang = given_up(open_fifo(guest, ASIDE))
    assert hang.kind is Kind.GUEST_IDLE
    assert "the agent answers and no CPU runs; init (pid " in hang.why
    assert ") in fifo_open waits" in hang.why
    console = guest.machine.console.text()
    assert "sysrq: Show backtrace of all active CPUs" in console
    for cpu in range(guest.cpus):
        assert f"NMI backtrace for cpu {cpu}" in console
    assert "sysrq" not in guest.machine.console.tail()  # it tells what came by itself
    assert hang.text.count("  halted at 0xffffffff") >= guest.cpus
    assert guest.splats() == []


def test_an_agent_whose_main_loop_is_kept(guest: Guest) -> None:
    """One of its threads stands in, for questions about it."""
    hang = given_up(open_fifo(guest, 0))
    assert hang.kind is Kind.GUEST_IDLE
    assert "init (pid 1) in fifo_open waits" in hang.why


def test_an_agent_that_is_dead(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its threads are frozen, by the cgroup it is in: the kernel is asked by serial line."""
    guest.calls.must("mkdir", b"/tmp/cg\0", 0o755)
    guest.calls.must("mount", b"cgroup2\0", b"/tmp/cg\0", b"cgroup2\0", 0, 0)
    guest.calls.must("mkdir", b"/tmp/cg/agent\0", 0o755)
    guest.write("/tmp/cg/agent/cgroup.procs", "1")
    kernels_own = {pid for pid, _ in guest.calls.link.call("threads", "ksoftirqd/")}
    guest.calls.link.send("write", "/tmp/cg/agent/cgroup.freeze", b"1", task=ASIDE)
    hang = given_up(lambda: wait_until(lambda: ask(guest)))
    assert hang.kind is Kind.AGENT_DEAD
    assert hang.why.startswith("its kernel answers, no CPU runs; init (pid 1)")
    assert "sysrq: Show State" in guest.machine.console.text()
    # also by a console that prints later than it is told to, by a thread
    assert len(kernels_own) == guest.cpus
    assert kernels_own <= {task.pid for task in parse_tasks(hang.text)}
    assert guest.machine.process.alive()
    monkeypatch.setattr(harness.shell.cli, "ANSWER_S", 0.5)
    no_prompt = "gives no prompt: the guest's agent "
    with pytest.raises(AgentLost, match=no_prompt):
        enter(guest.machine, None, (), Phases(sys.stderr), Wish(ssh=True, gdb=False, prompt=True))


def test_processes_that_take_all_cpus(guest: Guest) -> None:
    guest.write("/proc/sys/kernel/sched_rt_runtime_us", "-1")
    for cpu in reversed(range(guest.cpus)):
        for server in ("fair_server", "ext_server"):
            with contextlib.suppress(GuestError):  # before 6.12, 7.0
                guest.write(f"/sys/kernel/debug/sched/{server}/cpu{cpu}/runtime", "0")
    with contextlib.suppress(AgentLost):  # the last may be told of no more
        for cpu in reversed(range(guest.cpus)):
            how = ("spin", [], cpu, SCHED_FIFO, HIGHEST)
            guest.calls.link.call("spawn", *how, deadline_s=1.0)
    hang = given_up(lambda: ask(guest))
    assert hang.kind is Kind.GUEST_SPINNING
    assert "runs user code at 0x" in hang.why
    for cpu in range(guest.cpus):
        assert f"\nCPU {cpu}: its thread ran " in hang.text
    assert "in user space at 0x" in hang.text


def test_a_kernel_that_spins(guest: Guest) -> None:
    """A program is run four thousand million times, in one system call."""
    prog, frame = load_verdict(guest.calls, XDP_PASS), Buffer(bytes(64))
    calls = Syscalls(guest.calls.link, ASIDE)
    front = struct.pack("<4I2Q2I", prog.fd, 0, 64, 0, 0, 0, (1 << 32) - 1, 0)
    started = start_bpf(calls, PROG_TEST_RUN, front, {16: frame})
    hang = given_up(lambda: calls.collect(started, deadline_s=1.0))
    assert hang.kind is Kind.GUEST_SPINNING
    assert "runs the kernel" in hang.why
    assert "functions on its stack" in hang.text
    own, _, printed = hang.text.partition("What the kernel printed")
    assert "+0x" in own  # by the names of a twin
    assert "bpf_test_run" in own + printed


def test_an_update_that_the_labs_own_spinner_keeps(case: Casework) -> None:
    """It waits in cpumap.c; that the guest spins tells why, and the kernel is not to blame."""
    case.needs(UPDATE_WAITS)
    run = case.steer(3)
    with case.hold(3):
        kept = run.cpumap.start_update(
            3, run.cpumap.value(64), calls=Syscalls(case.guest.calls.link, ASIDE)
        )
        hang = given_up(lambda: case.guest.calls.collect(kept, deadline_s=1.0))
    assert hang.kind is Kind.GUEST_SPINNING
    assert "cpu_map_update_elem" in hang.text
    assert hang.in_cpumap == ""
    assert judge_error(AgentLost("lost", hang=hang), []).verdict is Verdict.INVALID


def test_a_qemu_that_was_killed(guest: Guest) -> None:
    guest.machine.process.kill()
    hang = given_up(lambda: ask(guest))
    assert hang.summary == "QEMU dead: QEMU ended with signal SIGKILL: it printed nothing"


def test_a_qemu_that_is_paused(guest: Guest) -> None:
    guest.machine.qmp("stop")
    hang = given_up(lambda: ask(guest))
    assert hang.summary == "QEMU dead: it does not run the guest, whose state is paused"


def test_a_qemu_that_does_not_run(guest: Guest) -> None:
    os.kill(guest.machine.process.pid, signal.SIGSTOP)
    hang = given_up(lambda: ask(guest))
    assert hang.kind is Kind.HOST_STARVED
    assert "QEMU is stopped" in hang.why


def test_a_guest_is_examined_once(guest: Guest) -> None:
    hang = given_up(open_fifo(guest, ASIDE))
    before = guest.machine.console.text()
    assert guest.machine.examine("something else") is hang
    assert guest.machine.console.text() == before
