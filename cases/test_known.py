"""What kernels are known to do wrong: configs/known-issues.yaml says which, and how it shows."""

from __future__ import annotations

import errno
import re
import struct
from typing import TYPE_CHECKING

import pytest

from harness.agent.bpf import CpuMap
from harness.entries import load_onward
from harness.errors import GuestError
from harness.model.gates import PREEMPTIBLE_SOFTIRQS, UPDATE_WAITS

if TYPE_CHECKING:
    from harness.casework import Casework

RPS = "/sys/class/net/eth0/queues/rx-0/rps_cpus"
QUEUED = 50
ASIDE = 2
"""The agent's thread that removes the device."""
SCHED_FIFO, ABOVE_OTHERS = 1, 10


@pytest.mark.kconfig("SLUB_DEBUG")
@pytest.mark.machine(append="slub_debug=FZPU")
@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(
            "native",
            marks=pytest.mark.proves("cpu_map_enqueue", "frames outlive their device"),
        ),
        pytest.param(
            "generic",
            marks=pytest.mark.proves(
                "cpu_map_generic_redirect",
                "skbs outlive their device",
            ),
        ),
    ],
)
def test_queued_frames_survive_their_device(lab: Casework, mode: str) -> None:
    try:
        lab.guest.read(RPS)
    except GuestError as error:
        if error.errno != errno.ENOENT:
            raise
        pytest.skip(
            "a kernel without CONFIG_RPS has every CPU empty its backlog before a device goes, the "
            "held one too (flush_all_backlogs)"
        )
    run = lab.steer(3, entries={3: 256}, mode=mode, socket=False)
    with lab.hold(3):
        lab.send(frames=QUEUED)
        run.wait_offered()
        run.detach()
        lab.guest.spoilt.append("eth0's device was removed")
        lab.guest.calls.link.call("write", "/sys/class/net/eth0/device/../remove", b"1", task=ASIDE)
    lab.wait_for(lambda: run.taken_on(3) == QUEUED)
    assert run.taken_on(3) == QUEUED


def ending(lab: Casework) -> int:
    """Return how many workers wait for the kthread of an entry to end (kthread_stop)."""
    stacks = (lab.guest.read(f"/proc/{pid}/stack") for pid in lab.guest.threads("kworker/"))
    # not in cpu_map_kthread_stop, which waits for RCU's callbacks first
    return sum(re.search(r"\bkthread_stop\+", stack) is not None for stack in stacks)


@pytest.mark.proves(
    "__cpu_map_entry_replace",
    "a kthread that is stopped before it began leaves no frames behind",
)
def test_an_entry_replaced_before_its_kthread_ran_loses_no_frame(lab: Casework) -> None:
    waits = UPDATE_WAITS.holds(lab.kernel)
    run = lab.steer(3)
    lab.send(frames=1)
    assert run.wait_rest()  # its first kthread has run
    with lab.hold(3):
        update = run.start_set(3, qsize=64)
        if not waits:
            run.finish_set(update)
        lab.send(frames=QUEUED)
        run.wait_offered()
        if not waits:
            run.set(3, qsize=64)
            lab.wait_for(lambda: ending(lab) == 2)
            assert ending(lab) == 2
    if waits:
        run.finish_set(update)
        run.set(3, qsize=64)
    assert len(lab.wait_kthreads(1)) == 1
    taken = run.taken_on(3)
    assert taken == run.sent, f"{taken} of {run.sent} frames queued were taken"
    assert lab.close().delivered == run.sent


@pytest.mark.kconfig("PREEMPT_RT")
@pytest.mark.proves(
    "__cpu_map_flush",
    "the kthread that it wakes may preempt it, and fill what it flushes next",
    since=PREEMPTIBLE_SOFTIRQS,
)
def test_a_kthread_that_preempts_a_flush_leaves_it_its_list(lab: Casework) -> None:
    if not lab.shares_bulks:
        pytest.skip("bottom halves of a CPU keep each other out (PREEMPT_RT_NEEDS_BH_LOCK)")
    run = lab.steer((2, 1), entries={2: 4096}, socket=False)  # flushed first: what came in last
    run.set(1, 4096, load_onward(lab.guest, run.cpumap, 2), onward=(2,))
    (pid,) = lab.guest.threads("cpumap/1/")
    priority = struct.pack("<i", ABOVE_OTHERS)
    lab.guest.calls.must("sched_setscheduler", pid, SCHED_FIFO, priority, why="cpumap/1")
    lab.live(64, cpu=1)
    assert lab.close().delivered == 64


@pytest.mark.proves("cpu_map_free", "a map goes with its last reference, whatever its entries run")
def test_a_map_that_its_own_entrys_program_uses_goes_too(lab: Casework) -> None:
    lab.guest.must_own("kernel, of which a map may stay for ever")
    lab.guest.spoilt.append("a map that nobody can get at holds itself")
    own, other = (CpuMap(lab.guest.calls, max_entries=len(lab.cpus)) for _ in range(2))
    program = load_onward(lab.guest, own, 2)
    own.set(1, 64, program)
    other.set(1, 64)
    kthread = f"cpumap/1/map:{other.id}"
    for descriptor in (program, own, other):
        descriptor.close()
    lab.wait_for(lambda: kthread not in lab.kthreads())
    left = lab.kthreads()
    assert not left, f"{left} of a map that holds itself"
