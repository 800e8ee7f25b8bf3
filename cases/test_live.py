"""Frames that the guest makes itself close the same books as those that come over the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.trace.events import CpumapEnqueue, XdpAction, XdpException

if TYPE_CHECKING:
    from harness.casework import Casework

FRAMES = 200
THROUGH = ("injected", "seen", "redirected", "enqueued", "accepted", "taken", "delivered", "socket")
"""The accounts of a frame that comes through."""


@pytest.mark.proves("cpu_map_kthread_run", "a frame is delivered once, on the CPU of its entry")
@pytest.mark.parametrize("ways", [("send",), ("live",), ("send", "live"), ("live", "send")])
def test_wire_and_live_close_the_same_books(lab: Casework, ways: tuple[str, ...]) -> None:
    run = lab.steer(lab.cpus)
    for way in ways:
        getattr(lab, way)(FRAMES)
        assert run.wait_rest()
    books = lab.close()
    accounts = {name: n for name, n in books.accounts().items() if n}
    assert accounts == dict.fromkeys(THROUGH, FRAMES * len(ways))
    assert {row.delivered for row in books.per_cpu} == {FRAMES * len(ways) // len(lab.cpus)}


@pytest.mark.proves("bq_enqueue", "each CPU has a bulk of its own for each entry")
def test_live_frames_come_from_the_cpu_that_is_asked_for(lab: Casework) -> None:
    lab.steer(lab.cpus)
    for cpu in lab.cpus:
        lab.live(40, cpu=cpu)
    assert lab.close().socket == 40 * len(lab.cpus)
    producers = [record.producer for record in lab.records(CpumapEnqueue)]
    assert sorted(set(producers)) == list(lab.cpus)


@pytest.mark.proves("cpu_map_kthread_run", "a frame becomes an skb of the same bytes")
@pytest.mark.parametrize("size", [60, 61, 512, 1514])
def test_live_frames_arrive_whole(lab: Casework, size: int) -> None:
    lab.steer(3, entries={3: 16})
    for _ in range(20):  # each with pages that others left behind
        lab.live(32, size=size)
    books = lab.close()
    assert books.delivered == books.socket == 640 - books.queue_drops


@pytest.mark.proves("cpu_map_redirect", "a frame for a missing entry takes the action of the flags")
@pytest.mark.parametrize("action", [XdpAction.ABORTED, XdpAction.DROP, XdpAction.PASS])
def test_a_live_frame_without_an_entry_takes_the_flags_action(
    lab: Casework, action: XdpAction
) -> None:
    lab.steer(2, entries={}, flags=int(action))
    lab.live(FRAMES)
    books = lab.close()
    assert (books.aborted, books.dropped, books.passed) == tuple(
        FRAMES * (action is which) for which in (XdpAction.ABORTED, XdpAction.DROP, XdpAction.PASS)
    )
    assert lab.records(XdpException) == []  # test_run.c traces none


@pytest.mark.proves("cpu_map_redirect", "a frame for a missing entry takes the action of the flags")
def test_a_live_frame_without_an_entry_is_sent_back(lab: Casework) -> None:
    run = lab.steer(2, entries={}, flags=int(XdpAction.TX))
    lab.live(FRAMES)
    assert len(run.receive(FRAMES, nic=0)) == FRAMES
    books = lab.close()
    assert books.tx == books.devices == FRAMES
