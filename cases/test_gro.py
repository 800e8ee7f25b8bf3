"""From 6.15 the kthread hands frames to GRO: it merges what belongs together and keeps nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.entries import load_verdicts
from harness.model.gates import GRO
from harness.trace.events import XdpAction

if TYPE_CHECKING:
    from harness.casework import Casework

BURST = 32


def merged(lab: Casework) -> list[int]:
    """Return how many segments each skb had that reached the stack."""
    return [hop.count for hop in lab.run.arrivals() if hop.count]


def queue_flows(lab: Casework, flows: int, frames: int) -> None:
    """Queue the frames of TCP flows at CPU 2, then let its kthread take them all at once."""
    run = lab.steer(2, gro=True, socket=False)
    with lab.hold(2):
        run.send(
            [
                run.flow(frames, protocol="tcp", size=200, source_port=40000 + number)
                for number in range(flows)
            ]
        )
        run.wait_offered()


@pytest.mark.smoke
@pytest.mark.proves(
    "cpu_map_kthread_run", "segments of a flow are merged, those of others not", since=GRO
)
@pytest.mark.proves(
    "cpu_map_kthread_run", "each frame reaches the stack as an skb of its own", until=GRO
)
@pytest.mark.parametrize("flows", [1, 3])
def test_segments_of_a_flow_are_merged(lab: Casework, flows: int) -> None:
    queue_flows(lab, flows, BURST // flows)
    frames = BURST // flows * flows
    assert lab.close().delivered == frames
    if GRO.holds(lab.kernel):
        assert merged(lab) == [BURST // flows] * flows
    else:
        assert merged(lab) == [1] * frames


@pytest.mark.proves(
    "cpu_map_gro_flush", "GRO is flushed when the ring is empty: nothing is held back"
)
@pytest.mark.proves("__cpu_map_flush", "the kthread is woken, were it for one frame")
def test_a_lone_segment_is_not_held_back(lab: Casework) -> None:
    run = lab.steer(2, gro=True, socket=False)
    for number in range(3):
        run.send([run.flow(1, protocol="tcp", size=200, source_port=40000 + number)])
        assert run.wait_rest()
    assert lab.close().delivered == 3


@pytest.mark.proves("cpu_map_kthread_run", "datagrams reach the stack one by one")
def test_datagrams_are_not_merged(lab: Casework) -> None:
    run = lab.steer(2, gro=True)
    with lab.hold(2):
        lab.send(frames=BURST)
        run.wait_offered()
    assert lab.close().socket == BURST
    assert merged(lab) == [1] * BURST


@pytest.mark.proves(
    "cpu_map_gro_flush", "GRO is flushed at every 64th frame, full as the ring may be"
)
def test_gro_is_flushed_at_every_64th_frame(lab: Casework) -> None:
    """Where a tick is longer than a millisecond; else GRO may keep it for the tick's rest."""
    queue_flows(lab, 1, 160)
    assert lab.close().delivered == 160
    if lab.guest.tick_hz() < 1000:
        assert merged(lab) == [64, 64, 32]


@pytest.mark.proves("cpu_map_kthread_run", "what its program drops counts for the flush", since=GRO)
def test_dropped_packets_count_for_the_flush(lab: Casework) -> None:
    run = lab.steer(2, entries={}, gro=True, socket=False)
    run.set(2, 512, load_verdicts(lab.guest, [XdpAction.PASS, XdpAction.DROP]))
    with lab.hold(2):
        passing, dropped = (run.flow(96, protocol="tcp", size=200, source_port=n) for n in (1, 2))
        run.send([passing, dropped])
        run.wait_offered()
    assert lab.close().delivered == 96
    if lab.guest.tick_hz() < 1000:
        assert merged(lab) == [32] * 3
