"""Entries come, change and go while frames rush in: every frame still ends somewhere known.

Not where an update does not wait for its kthread: an entry that is replaced before its kthread has
first run takes its frames with it, and no tracepoint tells (kthread_stop ends a kthread that has
not begun without calling its function; 436901649731, CVE-2023-53441; 5.10.262 still has it).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from harness.entries import load_verdicts
from harness.model.gates import UPDATE_WAITS
from harness.trace.events import XdpAction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.casework import Casework
    from harness.steering import Steering

pytestmark = pytest.mark.machine(append="slub_debug=FZPU")
"""A use after free is seen by the allocator's own marks."""
FRAMES = 12000
RATE = 6000
QSIZES = (1, 8, 64, 192, 1024)


def rounds_while_sending(run: Steering) -> Iterator[int]:
    """Count up as long as frames go in, and a few rounds more."""
    with run.sending([run.flow(FRAMES)], rate=RATE) as done:
        for number in itertools.count():
            if done() and number >= len(QSIZES):
                return
            yield number


@pytest.mark.proves(
    "__cpu_map_entry_replace",
    "an entry replaced under traffic loses no frame untold",
    since=UPDATE_WAITS,
)
def test_entries_are_replaced_under_traffic(lab: Casework) -> None:
    run = lab.steer(lab.cpus)
    for number in rounds_while_sending(run):
        run.set(number % len(lab.cpus), QSIZES[number % len(QSIZES)])
    books = lab.close()
    assert books.seen == FRAMES
    assert books.aborted == 0
    assert books.delivered == FRAMES - books.queue_drops


@pytest.mark.proves(
    "__cpu_map_entry_replace",
    "an entry deleted under traffic loses no frame untold",
    since=UPDATE_WAITS,
)
def test_entries_come_and_go_under_traffic(lab: Casework) -> None:
    run = lab.steer(lab.cpus)
    for number in rounds_while_sending(run):
        cpu = number % len(lab.cpus)
        run.cpumap.remove(cpu)
        run.set(cpu, QSIZES[number % len(QSIZES)])
    books = lab.close()
    assert books.seen == FRAMES
    assert books.delivered == FRAMES - books.queue_drops - books.aborted


@pytest.mark.proves(
    "__cpu_map_entry_replace",
    "under traffic each frame meets the old program or the new",
    since=UPDATE_WAITS,
)
def test_programs_are_replaced_under_traffic(lab: Casework) -> None:
    run = lab.steer(2, entries={2: 1024})
    programs = [load_verdicts(lab.guest, [v]) for v in (XdpAction.PASS, XdpAction.DROP)]
    for number in rounds_while_sending(run):
        run.set(2, 1024, programs[number % 2])
    books = lab.close()
    assert books.seen == FRAMES
    assert books.delivered == FRAMES - books.queue_drops - books.prog_drop
