"""A hold keeps kthreads of cpumap from running, and keeps nobody else waiting."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from harness.agent.bpf import CpuMap
from harness.casework import Casework
from harness.hold import KTHREADD, SCHED_FIFO, SCHED_NORMAL, SPINNER_PRIORITY, UNBOUND_WORK
from harness.machine.topology import Topology
from harness.patience import wait_until
from harness.plug import set_online

if TYPE_CHECKING:
    from harness.lab import Lab

ALL_CPUS_WORK = "/proc/sys/vm/stat_refresh"
"""Writing it queues work for each CPU, and waits for it (schedule_on_each_cpu)."""
PERIODS_S = 3.5
"""Several periods of the fair server, of a second each."""


def test_work_for_a_held_cpu_is_done(workshop: Lab, a_kernel: str) -> None:
    with workshop.open(a_kernel, Topology()) as guest:
        case = Casework(guest)
        run = case.steer(3)
        with case.hold(3):
            case.send(frames=50)
            run.wait_offered()
            guest.write(ALL_CPUS_WORK, "1")
            assert run.taken_on(3) == 0
        assert case.close().delivered == 50


def test_a_kthread_is_made_whose_cpu_is_held(workshop: Lab, a_kernel: str) -> None:
    """It begins on another, whatever the scheduler thinks: here that kthreadd was on this one."""
    with workshop.open(a_kernel, Topology()) as guest:
        case = Casework(guest)
        run = case.steer(3)
        only = struct.pack("<Q", 1 << 3)
        guest.calls.must("sched_setaffinity", KTHREADD, len(only), only, why="kthreadd")
        with case.hold(3):
            update = run.start_set(3, qsize=64)
            assert len(case.wait_kthreads(2)) == 2
        run.finish_set(update)


def test_work_of_no_cpus_own_is_done(workshop: Lab, a_kernel: str) -> None:
    """Such as to free a map, by workers that are all on the CPU that is held here."""
    with workshop.open(a_kernel, Topology()) as guest:
        case = Casework(guest)
        case.steer(3)
        other = CpuMap(guest.calls, max_entries=4)
        other.set(2, 64)
        guest.write(UNBOUND_WORK, f"{1 << 3:x}")
        assert len(case.kthreads()) == 2
        with case.hold(3):
            other.close()
            assert len(case.wait_kthreads(1)) == 1
        assert int(guest.read(UNBOUND_WORK), 16) == 1 << 3


def test_without_a_switch_decoys_take_what_the_fair_server_gives(
    workshop: Lab, a_kernel: str
) -> None:
    with workshop.open(a_kernel, Topology(append="debugfs=off")) as guest:
        case = Casework(guest)
        run = case.steer(3)
        (pid,) = guest.threads("cpumap/3/")
        with case.hold(3):
            case.send(frames=50)
            run.wait_offered()
            assert not wait_until(lambda: run.taken_on(3), PERIODS_S)
        assert guest.calls.must("sched_getscheduler", pid).value == SCHED_NORMAL
        assert run.wait_rest()
        assert case.close().delivered == 50


def test_a_held_cpu_that_goes_offline_pulls_nothing_back(workshop: Lab) -> None:
    """On a kernel that would (before 5.11): its spinner waits where another is before it."""
    with workshop.open("debian:5.10", Topology()) as guest:
        case = Casework(guest)
        run = case.steer(3)
        run.unpins()
        with case.hold(3) as hold:
            hold.prove()
            first = guest.spawn("spin", 0, SCHED_FIFO, SPINNER_PRIORITY + 1)
            set_online(guest, 3, online=False)
            guest.kill(first)
        assert guest.splats() == []
