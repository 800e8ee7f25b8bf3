"""Frames go to a ring in bulks of eight; the flush at the end of a batch wakes its kthread once.

Live frames: a batch of them is a NAPI poll of a size that the case chooses.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

import pytest

from harness.trace.events import CpumapEnqueue, CpumapKthread

if TYPE_CHECKING:
    from harness.casework import Casework

BATCH = 256
ROUNDS = 5


def bulks(lab: Casework) -> dict[tuple[int, int, int], list[tuple[int, int]]]:
    """Return (processed, drops) of each bulk, in order, by map, producer and destination."""
    found = defaultdict(list)
    for record in lab.records(CpumapEnqueue):
        lane = (record.map_id, record.producer, record.to_cpu)
        found[lane].append((record.processed, record.drops))
    return dict(found)


@pytest.mark.proves("bq_enqueue", "a bulk of 8 is flushed before the ninth frame is appended")
@pytest.mark.proves("__cpu_map_flush", "the end of the poll flushes what is left")
def test_a_batch_goes_in_bulks_of_eight_and_a_rest(lab: Casework) -> None:
    run = lab.steer(1, entries={1: 1024})
    sizes = (1, 7, 8, 9, 16, 17, 64, 255, 256)
    for frames in sizes:
        lab.live(frames, batch=BATCH)
    assert lab.close().delivered == sum(sizes)
    model = lab.model(1, 1024)
    expected = [bulk for frames in sizes for bulk in model.poll(frames)]
    assert bulks(lab) == {(run.cpumap.id, 0, 1): expected}


@pytest.mark.proves("__cpu_map_flush", "the end of the poll flushes what is left")
def test_every_batch_is_flushed_at_its_end(lab: Casework) -> None:
    run = lab.steer(1, entries={1: 1024})
    lab.live(61, batch=20)
    assert lab.close().delivered == 61
    model = lab.model(1, 1024)
    batches = [bulk for frames in (20, 20, 20, 1) for bulk in model.poll(frames)]
    assert bulks(lab) == {(run.cpumap.id, 0, 1): batches}


@pytest.mark.proves("bq_enqueue", "each CPU has a bulk of its own for each entry")
@pytest.mark.parametrize("frames", [2, 15, 18])
def test_each_entry_has_a_bulk_of_its_own(lab: Casework, frames: int) -> None:
    run = lab.steer((1, 2))
    lab.live(frames, batch=BATCH)
    assert lab.close().delivered == frames
    halves = {1: (frames + 1) // 2, 2: frames // 2}
    expected = {
        (run.cpumap.id, 0, cpu): lab.model(cpu, 192).poll(half) for cpu, half in halves.items()
    }
    assert bulks(lab) == expected


@pytest.mark.proves("__cpu_map_flush", "every bulk queue of a poll is flushed, however many")
@pytest.mark.machine(cpus=16)
def test_a_batch_may_go_to_more_entries_than_a_bulk_holds(lab: Casework) -> None:
    run = lab.steer(lab.cpus)
    lab.live(11 * len(lab.cpus), batch=BATCH)
    assert lab.close().delivered == 11 * len(lab.cpus)
    expected = [(8, 0), (3, 0)]
    assert bulks(lab) == {(run.cpumap.id, 0, cpu): expected for cpu in lab.cpus}


@pytest.mark.proves("bq_enqueue", "entries of two maps for one CPU have bulks of their own")
@pytest.mark.machine(nics=2)
def test_each_map_has_bulks_of_its_own(lab: Casework) -> None:
    run = lab.steer(1, nics=(0, 1), maps=2)
    for nic, frames in ((0, 12), (1, 5), (0, 3)):
        lab.live(frames, nic=nic)
    assert lab.close().delivered == 20
    assert bulks(lab) == {
        (run.maps[0].id, 0, 1): [(8, 0), (4, 0), (3, 0)],
        (run.maps[1].id, 0, 1): [(5, 0)],
    }


@pytest.mark.proves(
    "__cpu_map_flush", "the kthread is woken when all of a poll is in the ring, not before"
)
@pytest.mark.parametrize("producer", [0, 1])
def test_the_kthread_is_woken_once_the_whole_batch_is_in(lab: Casework, producer: int) -> None:
    run = lab.steer(1, entries={1: 1024})
    for _ in range(ROUNDS):
        run.wait_rest()
        lab.wait_asleep()
        lab.live(BATCH, cpu=producer, batch=BATCH)
    assert lab.close().delivered == ROUNDS * BATCH
    steps: list[CpumapEnqueue | CpumapKthread] = [*lab.records(CpumapEnqueue)]
    steps += lab.records(CpumapKthread)
    steps = sorted((step for step in steps if step.processed), key=attrgetter("ts"))
    turns = [(kind, len(list(group))) for kind, group in groupby(map(type, steps))]
    assert turns == [(CpumapEnqueue, BATCH // 8), (CpumapKthread, BATCH // 8)] * ROUNDS
