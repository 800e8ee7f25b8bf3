"""What the map drops, delivers or forgets goes back to where it came from."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from harness.agent.bpf import CpuMap
from harness.entries import load_onward, load_verdicts
from harness.errors import GuestError
from harness.model.gates import LIVE_FRAMES, SEVERAL_BUFFERS, UPDATE_WAITS
from harness.shortage import Shortage, free_kib
from harness.trace.events import Event, XdpAction

if TYPE_CHECKING:
    from harness.casework import Casework
    from harness.steering import Steering

FRAMES = 20000
BATCH = 256
PAGE_POOL = 2
"""enum xdp_mem_type: MEM_TYPE_PAGE_POOL."""
ROUNDS = 500
"""A ring of 16384 frames each: 64 MiB."""
FREED = "what its program drops is freed"
QUEUED = 12000
"""Far more than there is an skb for in a guest that is short of memory."""
JUMBO = 9014
LEAK_KIB = 12 * 1024
"""More than a healthy guest's memory moves; less than a fifth of what is at stake."""


def unused_kib(lab: Casework) -> int:
    """Return the guest's free memory, with what the kernel can give back counted as free."""
    lab.guest.write("/proc/sys/vm/drop_caches", "3")
    try:
        lab.guest.write("/proc/sys/vm/compact_memory", "1")
    except GuestError as error:
        if error.errno != errno.ENOENT:  # without CONFIG_COMPACTION
            raise
    return free_kib(lab.guest)


def wait_returned(lab: Casework, before: int) -> int:
    """Wait until memory is back, and return how much is not."""
    lab.wait_for(lambda: before - unused_kib(lab) < LEAK_KIB)
    return before - unused_kib(lab)


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(
            "native",
            marks=pytest.mark.proves(
                "bq_flush_to_queue", "frames that a full ring refuses are freed"
            ),
        ),
        pytest.param(
            "generic",
            marks=pytest.mark.proves(
                "cpu_map_generic_redirect", "an skb that a full ring refuses is freed"
            ),
        ),
    ],
)
def test_dropped_frames_are_freed(lab: Casework, mode: str) -> None:
    run = lab.steer(3, entries={3: 1}, mode=mode, socket=False)
    before = unused_kib(lab)
    with lab.hold(3):
        lab.send(frames=FRAMES)
        run.wait_offered()
    books = lab.close()
    assert books.queue_drops == FRAMES - 1
    assert wait_returned(lab, before) < LEAK_KIB


@pytest.mark.proves("cpu_map_kthread_run", "frames that it delivers are freed")
def test_delivered_frames_are_freed(lab: Casework) -> None:
    lab.steer(lab.cpus, entries=dict.fromkeys(lab.cpus, 16384), socket=False)
    before = unused_kib(lab)
    lab.send(frames=FRAMES)
    assert lab.close().delivered == FRAMES
    assert wait_returned(lab, before) < LEAK_KIB


@pytest.mark.proves("__cpu_map_entry_alloc", "what a refused entry was given is freed")
def test_refused_entries_are_freed(lab: Casework) -> None:
    run = lab.steer(3)
    before = unused_kib(lab)
    for _ in range(ROUNDS):
        refused = run.cpumap.value(16384, run.programs[0])  # its ring is there before its program
        assert run.cpumap.update(3, refused).errno
    assert wait_returned(lab, before) < LEAK_KIB


@pytest.mark.proves(
    "cpu_map_free", "a map that is closed is freed, with its entries", since=UPDATE_WAITS
)
def test_maps_that_go_are_freed(lab: Casework) -> None:
    before = unused_kib(lab)
    for _ in range(ROUNDS):
        cpumap = CpuMap(lab.guest.calls, max_entries=4)
        cpumap.set(3, 16384)
        cpumap.close()
    assert lab.wait_kthreads(0) == []
    assert wait_returned(lab, before) < LEAK_KIB


@pytest.mark.proves(
    "__cpu_map_entry_free",
    "an entry that goes is freed, with its ring and bulk queues",
    since=UPDATE_WAITS,
)
def test_entries_that_go_are_freed(lab: Casework) -> None:
    run = lab.steer(3)
    before = unused_kib(lab)
    for _ in range(ROUNDS):
        run.set(3, 16384)  # a ring of 128 KiB
    assert len(lab.wait_kthreads(1)) == 1
    assert wait_returned(lab, before) < LEAK_KIB


def steer_watched(lab: Casework, to: int, **plan: object) -> Steering:
    """Steer frames that end at tc ingress, and watch for page pools that go.

    No socket: what it has read is freed by the CPU that allocated it, when that has the time
    (skb_attempt_defer_free).
    """
    lab.guest.tracer.enable("xdp/mem_disconnect")
    return lab.steer(to, socket=False, **plan)  # type: ignore[arg-type]


def pools_gone(lab: Casework) -> int:
    """Return how many page pools have all their pages back and are gone.

    Each live run has one of its own; one that lacks a page looks again every second
    (page_pool_release_retry).
    """
    events = [event for event in lab.records(Event) if event.name == "mem_disconnect"]
    return sum(event.fields["mem_type"] == PAGE_POOL for event in events)


def wait_pools_gone(lab: Casework, count: int) -> int:
    """Wait until this many page pools are gone, and return how many are."""
    lab.wait_for(lambda: pools_gone(lab) == count)
    return pools_gone(lab)


@pytest.mark.proves("bq_flush_to_queue", "frames that a full ring refuses are freed")
@pytest.mark.proves("cpu_map_kthread_run", "frames that it delivers are freed")
@pytest.mark.parametrize("qsize", [1, 16384])
def test_every_page_comes_back(lab: Casework, qsize: int) -> None:
    run = steer_watched(lab, 1, entries={1: qsize})
    for _ in range(5):
        lab.burst(BATCH, cpu=1)
    assert run.wait_rest()
    assert wait_pools_gone(lab, 5) == 5
    assert lab.close().delivered == 5 * min(qsize, BATCH)


@pytest.mark.proves("cpu_map_bpf_prog_run_xdp", "what an entry's program does not pass is freed")
def test_every_page_comes_back_from_an_entrys_program(lab: Casework) -> None:
    run = steer_watched(lab, 1, entries={})
    run.set(1, 512, load_verdicts(lab.guest, [*XdpAction, 99]))
    lab.live(40 * 6)
    assert run.wait_rest()
    assert wait_pools_gone(lab, 1) == 1
    assert lab.close().prog_drop == 40 * 5  # all but those passed


@pytest.mark.machine(memory_mib=192)
@pytest.mark.proves("cpu_map_kthread_run", "frames for which there is no skb are dropped, traced")
@pytest.mark.proves(
    "cpu_map_kthread_run", "frames for which there is no skb are freed", since=LIVE_FRAMES
)
def test_frames_without_an_skb_are_dropped_and_freed(lab: Casework) -> None:
    run = steer_watched(lab, 2, entries={2: 16384})
    is_live = LIVE_FRAMES.holds(lab.kernel)
    (kthread,) = lab.guest.threads("cpumap/")
    with Shortage(lab.guest, kthread) as shortage:
        with lab.hold(2):
            (lab.live if is_live else lab.send)(QUEUED)
            run.wait_offered()
            shortage.begin()
        shortage.wait_asleep()
    assert run.wait_rest()
    if is_live:
        assert wait_pools_gone(lab, 1) == 1
    books = lab.close()
    assert 0 < books.alloc_drops < QUEUED
    assert books.delivered == QUEUED - books.alloc_drops


@pytest.mark.proves("cpu_map_bpf_prog_run", "what the next ring refuses goes back to its pool")
def test_every_page_comes_back_from_a_full_second_ring(lab: Casework) -> None:
    run = steer_watched(lab, 1, entries={}, maps=2)
    run.set(2, 1, map=1)
    run.set(1, 512, load_onward(lab.guest, run.maps[1], 2), onward=(2,))
    with lab.hold(1):
        lab.live(BATCH)  # and so their pool is closed before they come back
    assert run.wait_rest()
    gone = wait_pools_gone(lab, 1)
    assert gone == 1, "pages of frames that the second ring refused did not come back"
    books = lab.close()
    assert books.prog_redirect == BATCH
    assert books.delivered == BATCH - books.queue_drops


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp", "each frame of a batch is freed as it was allocated"
)
@pytest.mark.parametrize("live_first", [True, False], ids=["live first", "live second"])
def test_frames_of_two_allocators_are_redirected_in_one_batch(
    lab: Casework, live_first: bool
) -> None:
    """A live frame's page is of a page pool, that of veth's is not (MEM_TYPE_PAGE_SHARED)."""
    if 0 not in lab.guest.veths:
        lab.guest.put_veth(0)
    run = steer_watched(lab, 1, entries={2: 64})
    run.set(1, 64, load_onward(lab.guest, run.cpumap, 2), onward=(2,))
    with lab.hold(1):
        for number in range(8):
            send = lab.live if (number % 2 == 0) == live_first else lab.send
            send(1)
            run.wait_offered()
    assert run.wait_rest()
    gone = wait_pools_gone(lab, 4)
    assert gone == 4, f"{gone} of 4 live frames' pages came back"
    books = lab.close()
    assert (books.prog_redirect, books.delivered) == (8, 8)


@pytest.mark.proves("cpu_map_kthread_run", "told to stop, it empties its ring before it ends")
@pytest.mark.proves("cpu_map_kthread_run", "frames that it delivers are freed")
@pytest.mark.parametrize("end", ["none", "delete", "qsize 0", "close"])
def test_pages_are_held_by_the_ring_and_come_back_after_its_end(lab: Casework, end: str) -> None:
    run = steer_watched(lab, 3, entries={3: 100})
    run.detach()  # a NIC's own page pools go here
    gone = pools_gone(lab)
    with lab.hold(3):
        lab.live(BATCH)
        run.wait_offered()
        if end == "delete":
            run.cpumap.remove(3)
        elif end == "qsize 0":
            run.cpumap.set(3, 0)
        elif end == "close":
            run.dismantle()
        assert pools_gone(lab) == gone
    assert run.wait_rest()
    assert wait_pools_gone(lab, gone + 1) == gone + 1
    assert lab.close().delivered == 100


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("native", marks=pytest.mark.proves("cpu_map_bpf_prog_run_xdp", FREED)),
        pytest.param("generic", marks=pytest.mark.proves("cpu_map_bpf_prog_run_skb", FREED)),
    ],
)
@pytest.mark.parametrize("verdict", [XdpAction.DROP, XdpAction.REDIRECT])
def test_what_an_entrys_program_drops_is_freed(lab: Casework, verdict: int, mode: str) -> None:
    run = lab.steer(3, entries={}, mode=mode, socket=False)
    run.set(3, 16384, load_verdicts(lab.guest, [verdict]))  # a redirect to nowhere fails
    before = unused_kib(lab)
    lab.send(frames=FRAMES)
    lab.close()
    assert wait_returned(lab, before) < LEAK_KIB


@pytest.mark.proves(
    "bq_flush_to_queue",
    "a frame that finds the ring full is freed, with all its buffers",
    since=SEVERAL_BUFFERS,
)
def test_dropped_frames_of_several_buffers_are_freed(lab: Casework) -> None:
    lab.guest.set_mtu(0, JUMBO)
    run = lab.steer(3, entries={3: 1}, frags=True, socket=False)
    before = unused_kib(lab)
    with lab.hold(3):
        lab.send(frames=FRAMES // 5, size=JUMBO)
        run.wait_offered()
    books = lab.close()
    assert books.queue_drops == FRAMES // 5 - 1
    assert wait_returned(lab, before) < LEAK_KIB
