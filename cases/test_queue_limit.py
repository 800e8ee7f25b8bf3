"""An entry's ring takes qsize frames and no more; the rest is dropped, counted and traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.casework import Casework

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
