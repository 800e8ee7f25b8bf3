"""Each entry has a kthread of its own: named after CPU and map, bound to that CPU."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import pytest

from harness.model.gates import FULL_COMM, UPDATE_WAITS
from harness.trace.events import CpumapKthread

if TYPE_CHECKING:
    from harness.casework import Casework

COMM = 15
EINVAL, SIGKILL = 22, 9
SCHED_OTHER, PRIO_PROCESS, NICE_0 = 0, 0, 20
A_WHILE_S = 1.5
"""Long enough for an update to return that does not wait, or not for ever."""


def uptime(lab: Casework) -> float:
    """Return the guest's clock, in seconds."""
    return float(lab.guest.read("/proc/uptime").split()[0])


def status(lab: Casework, pid: int) -> dict[str, str]:
    """Return what /proc says of a process."""
    lines = lab.guest.read(f"/proc/{pid}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


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
