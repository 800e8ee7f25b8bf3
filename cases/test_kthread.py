"""Each entry has a kthread of its own: named after CPU and map, bound to that CPU."""

from __future__ import annotations

import contextlib
import re
import struct
from typing import TYPE_CHECKING

import pytest

from harness.agent import insns
from harness.agent.bpf import (
    ATTACH_XDP,
    ATTACH_XDP_CPUMAP,
    CpuMap,
    attach_xdp,
    load_code,
)
from harness.guest import interface_name
from harness.model.gates import BUSY_KTHREAD_REPORTS, FULL_COMM, UPDATE_WAITS
from harness.trace.events import CpumapKthread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.casework import Casework

COMM = 15
EINVAL, SIGKILL = 22, 9
SCHED_OTHER, PRIO_PROCESS, NICE_0 = 0, 0, 20
A_WHILE_S = 1.5
"""Long enough for an update to return that does not wait, or not for ever."""
ETH_ZLEN, QSIZE = 60, 64
TRACER = "/sys/kernel/tracing/instances/function"
ASIDE = 1


def uptime(lab: Casework) -> float:
    """Return the guest's clock, in seconds."""
    return float(lab.guest.read("/proc/uptime").split()[0])


def status(lab: Casework, pid: int) -> dict[str, str]:
    """Return what /proc says of a process."""
    lines = lab.guest.read(f"/proc/{pid}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@contextlib.contextmanager
def busy_kthread(lab: Casework, cpu: int) -> Iterator[int]:
    """Have a kthread that never sleeps, its pid: its program redirects into its own ring.

    One frame goes round. Nothing of that is traced, for it would fill any buffer.
    """
    guest, calls = lab.guest, lab.guest.calls
    guest.tracer.stop()
    if 0 not in guest.veths:
        guest.put_veth(0)
    cpumap = CpuMap(calls, max_entries=cpu + 1)
    onward = insns.redirect(cpumap.fd, cpu)
    of_nic, of_entry = (
        load_code(calls, onward, attach_type=where) for where in (ATTACH_XDP, ATTACH_XDP_CPUMAP)
    )
    cpumap.set(cpu, QSIZE, of_entry)
    (pid,) = guest.threads("cpumap/")
    link = attach_xdp(calls, of_nic, guest.ifindex[interface_name(0)], "native")
    guest.veths[0].send(calls, [bytes(ETH_ZLEN)])
    lab.wait_for(lambda: status(lab, pid)["State"] == "R (running)")
    slept = status(lab, pid)["voluntary_ctxt_switches"]
    yield pid
    now = status(lab, pid)  # one that has slept all the time has not gone to sleep, either
    assert (now["State"], now["voluntary_ctxt_switches"]) == ("R (running)", slept)
    cpumap.set(cpu, QSIZE)  # where the circle ends: from there it goes to the stack
    for each in (link, of_nic, of_entry, cpumap):
        each.close()
    assert lab.wait_kthreads(0) == []


@pytest.mark.smoke
@pytest.mark.proves("__cpu_map_entry_alloc", "a kthread is bound to its CPU")
@pytest.mark.proves(
    "__cpu_map_entry_alloc", "a kthread's name is cpumap/CPU/map:ID", since=FULL_COMM
)
@pytest.mark.proves(
    "__cpu_map_entry_alloc",
    "a kthread's name is cpumap/CPU/map:ID, of which 15 characters are told",
    until=FULL_COMM,
)
@pytest.mark.proves("__cpu_map_entry_alloc", "a kthread is a task like others: SCHED_OTHER, nice 0")
def test_name_and_affinity(lab: Casework) -> None:
    run = lab.steer(lab.cpus)
    names = [f"cpumap/{cpu}/map:{run.cpumap.id}" for cpu in lab.cpus]
    if not FULL_COMM.holds(lab.kernel):
        names = [name[:COMM] for name in names]
    assert lab.kthreads() == sorted(names)
    for pid, name in lab.guest.threads("cpumap/").items():
        assert status(lab, pid)["Cpus_allowed_list"] == re.findall(r"\d+", name)[0]
        assert lab.guest.calls.must("sched_getscheduler", pid).value == SCHED_OTHER
        assert lab.guest.calls.must("getpriority", PRIO_PROCESS, pid).value == NICE_0


@pytest.mark.proves("cpu_map_kthread_run", "it runs on its CPU and takes up to 8 frames at once")
def test_it_runs_on_its_cpu(lab: Casework) -> None:
    lab.steer(lab.cpus)
    lab.send(frames=400)
    lab.close()
    events = [r for r in lab.records(CpumapKthread) if r.processed]
    assert {event.kthread_cpu for event in events} == set(lab.cpus)
    assert max(event.processed for event in events) <= 8


@pytest.mark.proves("cpu_map_kthread_run", "it sleeps, interruptibly, when it has nothing to do")
def test_it_sleeps_when_it_has_nothing_to_do(lab: Casework) -> None:
    lab.steer(lab.cpus)
    lab.wait_asleep()
    states = {status(lab, pid)["State"] for pid in lab.guest.threads("cpumap/")}
    assert states == {"S (sleeping)"}


@pytest.mark.proves("__cpu_map_entry_replace", "the old entry's kthread ends")
@pytest.mark.parametrize("cpu", [0, 3])
def test_an_entry_has_one_kthread_however_often_it_is_replaced(lab: Casework, cpu: int) -> None:
    run = lab.steer(cpu)
    for qsize in (1, 16384, 64):
        run.set(cpu, qsize)
    assert len(lab.wait_kthreads(1)) == 1
    lab.send(frames=10)
    assert lab.close().delivered == 10


@pytest.mark.proves(
    "__cpu_map_entry_alloc", "an update returns when the new kthread has run", since=UPDATE_WAITS
)
@pytest.mark.proves(
    "__cpu_map_entry_replace",
    "the old entry stays until the new kthread has run",
    since=UPDATE_WAITS,
)
def test_an_update_waits_for_the_kthreads_first_run(lab: Casework) -> None:
    run = lab.steer(3)
    with lab.hold(3):
        update = run.start_set(3, qsize=64)
        assert len(lab.wait_kthreads(2)) == 2
        until = uptime(lab) + A_WHILE_S
        lab.wait_for(lambda: uptime(lab) > until)
        assert not run.has_ended(update)
    run.finish_set(update)
    lab.send(frames=10)
    assert lab.close().delivered == 10


@pytest.mark.proves("__cpu_map_entry_alloc", "nobody can move a kthread: EINVAL")
@pytest.mark.proves("cpu_map_kthread_run", "no signal ends it")
def test_it_can_be_neither_moved_nor_killed(lab: Casework) -> None:
    lab.steer(3)
    (pid,) = lab.guest.threads("cpumap/")
    first = struct.pack("<Q", 1)
    assert lab.guest.calls.raw("sched_setaffinity", pid, len(first), first).errno == EINVAL
    lab.guest.calls.must("kill", pid, SIGKILL)
    lab.send(frames=40)
    assert lab.close().delivered == 40
    assert {r.kthread_cpu for r in lab.records(CpumapKthread)} == {3}


@pytest.mark.proves("cpu_map_kthread_run", "busy without end, it gives way to others on its CPU")
def test_a_busy_kthread_gives_way(lab: Casework) -> None:
    with busy_kthread(lab, 2) as pid:
        other = lab.guest.spawn("spin", 2)
        turns = int(status(lab, pid)["nonvoluntary_ctxt_switches"]) + 5
        lab.wait_for(lambda: int(status(lab, pid)["nonvoluntary_ctxt_switches"]) >= turns)
        assert int(status(lab, pid)["nonvoluntary_ctxt_switches"]) >= turns
        lab.guest.kill(other)


@pytest.mark.kconfig("TASKS_RCU", "DYNAMIC_FTRACE")
@pytest.mark.proves(
    "cpu_map_kthread_run",
    "busy without end, it keeps no grace period of RCU-tasks from its end (RT kernels aside)",
    since=BUSY_KTHREAD_REPORTS,
)
def test_a_busy_kthread_lets_rcu_tasks_go_on(lab: Casework) -> None:
    """Whoever ends the tracing of a function waits for one, before its trampoline is freed."""
    guest = lab.guest
    guest.must_own("tracing of functions")
    if "PREEMPT_RT" in guest.read("/proc/version"):
        pytest.skip("under PREEMPT_RT it does keep them (rcu_softirq_qs_periodic)")
    guest.calls.must("mkdir", f"{TRACER}\0".encode(), 0o700)
    guest.write(f"{TRACER}/set_ftrace_filter", "cpu_map_alloc")  # which nobody runs meanwhile
    guest.write(f"{TRACER}/current_tracer", "function")
    link = guest.calls.link
    with busy_kthread(lab, 2):
        end = link.send("write", f"{TRACER}/current_tracer", b"nop", task=ASIDE)
        lab.wait_for(lambda: link.is_answered(end))
        ended = link.is_answered(end)
    link.wait(end)
    assert ended
    guest.calls.must("rmdir", f"{TRACER}\0".encode())
