"""What the map drops, delivers or forgets goes back to where it came from."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

import pytest

from harness.errors import GuestError
from harness.model.gates import UPDATE_WAITS

if TYPE_CHECKING:
    from harness.casework import Casework

FRAMES = 20000
ROUNDS = 150
LEAK_KIB = 12 * 1024
"""More than a healthy guest's memory moves; less than a fifth of what is at stake."""


def free_kib(lab: Casework) -> int:
    """Return the guest's free memory, with what the kernel can give back counted as free."""
    lab.guest.write("/proc/sys/vm/drop_caches", "3")
    try:
        lab.guest.write("/proc/sys/vm/compact_memory", "1")
    except GuestError as error:
        if error.errno != errno.ENOENT:  # without CONFIG_COMPACTION
            raise
    meminfo = lab.guest.read("/proc/meminfo")
    found = re.search(r"^MemFree:\s+(\d+)", meminfo, re.MULTILINE)
    assert found
    return int(found[1])


def wait_returned(lab: Casework, before: int) -> int:
    """Wait until memory is back, and return how much is not."""
    lab.wait_for(lambda: before - free_kib(lab) < LEAK_KIB)
    return before - free_kib(lab)


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
    before = free_kib(lab)
    with lab.hold(3):
        lab.send(frames=FRAMES)
        run.wait_offered()
    books = lab.close()
    assert books.queue_drops == FRAMES - 1
    assert wait_returned(lab, before) < LEAK_KIB


@pytest.mark.proves("cpu_map_kthread_run", "frames that it delivers are freed")
def test_delivered_frames_are_freed(lab: Casework) -> None:
    lab.steer(lab.cpus, entries=dict.fromkeys(lab.cpus, 16384), socket=False)
    before = free_kib(lab)
    lab.send(frames=FRAMES)
    assert lab.close().delivered == FRAMES
    assert wait_returned(lab, before) < LEAK_KIB


@pytest.mark.proves(
    "__cpu_map_entry_free",
    "an entry that goes is freed, with its ring and bulk queues",
    since=UPDATE_WAITS,
)
def test_entries_that_go_are_freed(lab: Casework) -> None:
    run = lab.steer(3)
    before = free_kib(lab)
    for _ in range(ROUNDS):
        run.set(3, 16384)  # a ring of 128 KiB
    assert len(lab.wait_kthreads(1)) == 1
    assert wait_returned(lab, before) < LEAK_KIB
