"""The kthread takes its ring in batches of eight, and sleeps only when it finds it empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.entries import load_verdicts
from harness.model.gates import EVERY_SKB_RUN, STACK_KNOWS_CPUMAP_GENERIC
from harness.trace.events import CpumapKthread, XdpAction

if TYPE_CHECKING:
    from harness.casework import Casework

BATCH = 8
DROP, PASS = XdpAction.DROP, XdpAction.PASS
MIXED = pytest.mark.proves(
    "cpu_map_bpf_prog_run",
    "a batch of frames and skbs is delivered whole",
    since=STACK_KNOWS_CPUMAP_GENERIC,
)
MIXED_RUN = pytest.mark.proves(
    "cpu_map_bpf_prog_run",
    "of a batch, the program runs on the frames and on the skbs",
    since=EVERY_SKB_RUN,
)


@pytest.mark.proves("cpu_map_kthread_run", "it takes eight frames at a time, less when that is all")
def test_a_ring_is_taken_eight_at_a_time(lab: Casework) -> None:
    run = lab.steer(2)
    with lab.hold(2):
        lab.send(frames=5 * BATCH + 3)
        run.wait_offered()
    lab.close()
    taken = [r.processed for r in lab.records(CpumapKthread) if r.processed]
    assert taken == [BATCH] * 5 + [3]


@pytest.mark.proves("cpu_map_kthread_run", "a batch after which more was queued needs no sleep")
def test_it_sleeps_only_for_the_first_batch(lab: Casework) -> None:
    run = lab.steer(2)
    with lab.hold(2):
        lab.send(frames=20 * BATCH)
        run.wait_offered()
    lab.close()
    sched = [r.sched for r in lab.records(CpumapKthread) if r.processed]
    assert 0 in sched[1:]  # where the kernel is not fully preemptible, cond_resched may say 1


@pytest.mark.machine(nics=2)
@pytest.mark.parametrize(
    ("verdicts", "delivered"),
    [
        pytest.param([], 100, marks=MIXED),
        pytest.param([PASS], 100, marks=MIXED_RUN),
        pytest.param([DROP, PASS, PASS, DROP], 50, marks=MIXED_RUN),
        pytest.param([DROP] * 5 + [PASS] * 5, 50, marks=MIXED_RUN, id="no-frame"),
        pytest.param([PASS] * 5 + [DROP] * 5, 50, marks=MIXED_RUN, id="no-skb"),
    ],
)
def test_a_batch_may_hold_frames_and_skbs(
    lab: Casework, verdicts: list[int], delivered: int
) -> None:
    run = lab.steer(2, nics=(0, 1), mode="mixed", entries={2: 192})
    if verdicts:
        run.set(2, 192, load_verdicts(lab.guest, verdicts))
    with lab.hold(2):
        for _ in range(10):
            run.send([run.flow(5, nic=0), run.flow(5, nic=1)])
            run.wait_offered()
    books = lab.close()
    assert books.taken == 100
    assert books.delivered == delivered
