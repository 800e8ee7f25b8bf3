"""An entry's ring takes qsize frames and no more; the rest is dropped, counted and traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.model.gates import LIVE_FRAMES
from harness.trace.events import CpumapEnqueue

if TYPE_CHECKING:
    from harness.casework import Casework

BATCH = 256
LAZY_FROM = 32
"""ptr_ring hands consumed slots back in batches of 16 once it has 32 (CPUs of 64-byte lines)."""


@pytest.mark.proves(
    "bq_flush_to_queue", "a ring takes qsize frames; each frame beyond is dropped and counted"
)
@pytest.mark.parametrize("qsize", [8, 64])
@pytest.mark.parametrize("beyond", [-1, 0, 1, 40])
def test_a_held_ring_takes_qsize_frames(lab: Casework, qsize: int, beyond: int) -> None:
    run = lab.steer(3, entries={3: qsize})
    with lab.hold(3):
        lab.send(frames=qsize + beyond)
        run.wait_offered()
    books = lab.close()
    assert books.queue_drops == max(beyond, 0)
    assert books.delivered == min(qsize, qsize + beyond)


@pytest.mark.proves(
    "cpu_map_kthread_run", "from a qsize of 32 on, slots are handed back sixteen at a time"
)
@pytest.mark.parametrize(("qsize", "used"), [(64, 5), (64, 16), (64, 31), (8, 5)])
def test_a_used_ring_takes_fewer(lab: Casework, qsize: int, used: int) -> None:
    run = lab.steer(3, entries={3: qsize})
    lab.send(frames=used)
    assert run.wait_rest()
    unreturned = used % qsize % 16 if qsize >= LAZY_FROM else 0
    with lab.hold(3):
        lab.send(frames=qsize + 10)
        run.wait_offered()
    books = lab.close()
    assert books.queue_drops == 10 + unreturned
    assert books.delivered == used + qsize - unreturned


@pytest.mark.smoke
@pytest.mark.proves("bq_flush_to_queue", "a ring that was full takes frames again")
def test_a_full_ring_recovers(lab: Casework) -> None:
    run = lab.steer(3, entries={3: 8})
    with lab.hold(3):
        lab.send(frames=20)
        run.wait_offered()
    assert run.wait_rest()
    lab.send(frames=8)
    books = lab.close()
    assert books.queue_drops == 12
    assert books.delivered == 16


def bulks(lab: Casework, cpu: int) -> list[tuple[int, int]]:
    """Return (processed, drops) of each bulk offered to a ring, in order."""
    offers = [record for record in lab.records(CpumapEnqueue) if record.to_cpu == cpu]
    return [(record.processed, record.drops) for record in offers]


@pytest.mark.proves(
    "bq_flush_to_queue", "a ring takes qsize frames; each frame beyond is dropped and counted"
)
@pytest.mark.parametrize("qsize", [1, 2, 7, 8, 9, 31, 32, 33, 192, 255])
def test_a_ring_takes_qsize_frames_of_a_batch(lab: Casework, qsize: int) -> None:
    """No hold: a batch is made on the kthread's own CPU, which cannot run before its end."""
    lab.needs(LIVE_FRAMES)
    bursts = {1: qsize - 1 or BATCH, 2: qsize, 3: qsize + 1}
    run = lab.steer(tuple(bursts), entries=dict.fromkeys(bursts, qsize), by="flow")
    lab.wait_asleep()
    run.live({cpu: run.flow(frames) for cpu, frames in bursts.items()}, batch=BATCH)
    books = lab.close()
    for cpu, frames in bursts.items():
        assert bulks(lab, cpu) == lab.model(cpu, qsize).poll(frames)
    taken = [min(frames, qsize) for frames in bursts.values()]
    assert [row.delivered for row in books.per_cpu] == taken


@pytest.mark.proves(
    "cpu_map_kthread_run", "from a qsize of 32 on, slots are handed back sixteen at a time"
)
@pytest.mark.parametrize("qsize", [1, 8, 31, 32, 64, 100])
def test_a_ring_is_as_full_as_the_contract_says_burst_after_burst(
    lab: Casework, qsize: int
) -> None:
    """What was consumed is handed back lazily, and all of it when the ring comes round."""
    lab.steer(1, entries={1: qsize})
    model = lab.model(1, qsize)
    expected = []
    for frames in (5, qsize, 11, qsize + 20, 1, 2 * qsize, 16, qsize - 1 or 3, 15, 17, qsize + 40):
        lab.burst(frames, cpu=1)
        expected += model.poll(frames)
        model.cpu_map_kthread_run()
    assert lab.close().delivered == len(model.delivered)
    assert bulks(lab, 1) == expected


@pytest.mark.proves("bq_flush_to_queue", "a ring that was full takes frames again")
def test_a_ring_that_was_full_recovers_whole(lab: Casework) -> None:
    lab.steer(1, entries={1: 100})
    for _ in range(5):  # each consumes qsize frames: the ring is where it began
        lab.burst(BATCH, cpu=1)
    books = lab.close()
    assert books.queue_drops == 5 * (BATCH - 100)
    assert books.delivered == 5 * 100


@pytest.mark.proves(
    "bq_flush_to_queue", "a ring takes qsize frames; each frame beyond is dropped and counted"
)
@pytest.mark.parametrize("qsize", [100, 16384])
def test_a_ring_of_any_size_takes_qsize_frames(lab: Casework, qsize: int) -> None:
    run = lab.steer(3, entries={3: qsize}, socket=False)
    with lab.hold(3):
        lab.send(frames=qsize + 20)
        run.wait_offered()
    books = lab.close()
    assert books.queue_drops == 20
    assert books.delivered == qsize
