"""Any allocation may fail: what is answered then, and that nothing is lost on the way."""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING

import pytest

from harness.agent.bpf import create_map
from harness.entries import load_verdicts
from harness.faults import OPTIONS, Faults, find_leaks
from harness.model.gates import PROGRAM_ERRNO, STACK_KNOWS_CPUMAP_GENERIC
from harness.trace.events import XdpAction

if TYPE_CHECKING:
    from harness.agent.syscalls import Result
    from harness.casework import Casework
    from harness.steering import Steering

pytestmark = pytest.mark.kconfig(*OPTIONS)

KTHREADD = "2"
PERCPU_ARRAY = 6
"""BPF_MAP_TYPE_PERCPU_ARRAY."""
ELEMENT = 64
"""Bytes of its elements on each CPU: no more than a bulk queue takes (sizeof xdp_bulk_queue)."""
SKBS = "skbuff_head_cache"


def refuse_each(lab: Casework, run: Steering) -> list[int]:
    """Make an entry for CPU 3, each time with another allocation failing; return the errnos.

    One that fails leaves the old entry, one that gets along without what it asked for is whole.
    """
    program = load_verdicts(lab.guest, [XdpAction.PASS])
    qsizes = itertools.count(100)  # rings of less than a page: no vmalloc instead
    errnos, there = [], run.cpumap.lookup(3)[1]

    def update() -> Result:
        return run.cpumap.update(3, run.cpumap.value(next(qsizes), program))

    with Faults(lab.guest, "cpu_map_update_elem") as faults:
        for answer in faults.each(update):
            before, there = there, run.cpumap.lookup(3)[1]
            assert (there == before) == bool(answer.errno)
            errnos.append(answer.errno)
    program.close()
    return errnos


@pytest.mark.proves("__cpu_map_entry_alloc", "whichever of its allocations fails, it is ENOMEM")
@pytest.mark.proves("cpu_map_update_elem", "an update that fails leaves the old entry in place")
def test_each_allocation_of_an_entry_may_fail(lab: Casework) -> None:
    run = lab.steer(3)
    errnos = refuse_each(lab, run)
    assert set(errnos) <= {0, errno.ENOMEM}
    assert errnos.count(errno.ENOMEM) >= 4  # the entry, its ptr_ring, the ring, the kthread's order
    run.set(3, 192)
    lab.send(frames=100)
    assert lab.close().delivered == 100


@pytest.mark.kconfig("DEBUG_KMEMLEAK")
@pytest.mark.proves("__cpu_map_entry_alloc", "what a refused entry was given is freed")
def test_no_failed_allocation_leaks(lab: Casework) -> None:
    run = lab.steer(3)
    lab.guest.write("/sys/kernel/debug/kmemleak", "clear")  # what others have leaked since boot
    assert errno.ENOMEM in refuse_each(lab, run)
    lab.close()
    run.dismantle()
    lab.wait_kthreads(0)
    assert find_leaks(lab.guest) == ""


def fill_percpu(lab: Casework) -> None:
    """Use up the per-CPU memory that there is, while the kernel cannot get more of it."""
    elements = 4096
    while elements:
        made = create_map(
            lab.guest.calls, type=PERCPU_ARRAY, value_size=ELEMENT, max_entries=elements
        )
        elements = elements // 2 if made.errno else elements


@pytest.mark.proves("__cpu_map_entry_alloc", "whichever of its allocations fails, it is ENOMEM")
def test_an_entry_without_bulk_queues_is_refused(lab: Casework) -> None:
    run = lab.steer(3)
    with Faults(lab.guest, "pcpu_create_chunk") as faults, faults.all():
        fill_percpu(lab)
        answer = run.cpumap.update(3, run.cpumap.value(64))
    assert answer.errno == errno.ENOMEM
    lab.send(frames=100)
    assert lab.close().delivered == 100


@pytest.mark.proves(
    "__cpu_map_entry_alloc", "why its kthread cannot be made is told", since=PROGRAM_ERRNO
)
@pytest.mark.proves(
    "__cpu_map_entry_alloc", "a kthread that cannot be made is ENOMEM", until=PROGRAM_ERRNO
)
@pytest.mark.parametrize("verdicts", [[], [XdpAction.PASS]], ids=["no program", "program"])
def test_an_entry_whose_kthread_cannot_be_made_is_refused(
    lab: Casework, verdicts: list[int]
) -> None:
    run = lab.steer(3, entries={2: 64, 3: 192})
    program = load_verdicts(lab.guest, verdicts) if verdicts else None

    def update() -> Result:
        return run.cpumap.update(2, run.cpumap.value(64, program))

    with Faults(lab.guest, "kernel_clone") as faults:
        errnos = {answer.errno for answer in faults.each(update, KTHREADD)}
    # fork(2): EAGAIN where credentials cannot be copied (copy_process in kernel/fork.c)
    own = {errno.EAGAIN} if PROGRAM_ERRNO.holds(lab.kernel) else set()
    assert {errno.ENOMEM} <= errnos - {0} <= {errno.ENOMEM} | own
    run.cpumap.remove(2)
    lab.send(frames=100)
    assert lab.close().delivered == 100
    assert len(lab.wait_kthreads(1)) == 1


@pytest.mark.proves("cpu_map_alloc", "a map for which there is no memory is ENOMEM")
def test_a_map_that_gets_no_memory_is_refused(lab: Casework) -> None:
    errnos = []
    with Faults(lab.guest, "cpu_map_alloc") as faults:
        for size in range(0, 2048, 32):  # enough for nothing, for the map, for its array too
            with faults.all(after=size):
                made = create_map(lab.guest.calls, max_entries=64)
            errnos.append(made.errno)
            if not made.errno:
                lab.guest.calls.must("close", made.value)
    assert errnos[0] == errno.ENOMEM
    assert errnos[-1] == 0
    assert set(errnos) == {0, errno.ENOMEM}


@pytest.mark.proves("cpu_map_kthread_run", "frames for which there is no skb are dropped, traced")
@pytest.mark.proves(
    "cpu_map_kthread_run",
    "skbs are delivered where frames get none",
    since=STACK_KNOWS_CPUMAP_GENERIC,
)
@pytest.mark.machine(nics=2)
def test_frames_without_an_skb_are_dropped(lab: Casework) -> None:
    run = lab.steer(2, entries={2: 1024}, nics=(0, 1), mode="mixed")
    with Faults(lab.guest, "cpu_map_kthread_run") as faults, faults.all(cache=SKBS):
        with lab.hold(2):
            run.send([run.flow(400, nic=0), run.flow(400, nic=1)])
            run.wait_offered()
        assert run.wait_rest()
    books = lab.close()
    assert 0 < books.alloc_drops <= 400
    assert books.delivered == 800 - books.alloc_drops
