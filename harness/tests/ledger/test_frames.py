"""Frames lost, doubled and gone astray are named one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.tests.ledger.small import DROP, ENTRY, PASS, Small, enqueue, failure, found, kthread
from harness.trace.events import (
    CpumapEnqueue,
    Record,
)
from harness.trace.ledger import (
    NO_CPU,
    Hop,
    Kind,
    Place,
    close_books,
)
from harness.verdict import Verdict


def test_frame_lost_on_the_wire() -> None:
    run = Small()
    run.forget("seen", 5)
    run.forget("arrived", 5)
    run.socket[5] = 0
    run.records = [enqueue(8), enqueue(7), kthread(8), kthread(7)]
    assert found(run.close()) == [("seen", Kind.MISSING, Place(), 1, (5,))]


LOST = [
    ([enqueue(8), enqueue(7), kthread(8), kthread(7)], "enqueued", Place(None, 0, 2)),
    ([enqueue(8), enqueue(8), kthread(8), kthread(7)], "taken", ENTRY),
    ([enqueue(8), enqueue(8), kthread(8), kthread(8)], "delivered", Place(cpu=2)),
]


@pytest.mark.parametrize(("records", "hop", "place"), LOST)
def test_frame_lost_in_the_kernel(records: list[Record], hop: str, place: Place) -> None:
    run = Small(records=records)
    run.forget("arrived", 5)
    run.socket[5] = 0
    books = run.close()
    assert found(books) == [(hop, Kind.MISSING, place, 1, (5,))]
    assert books.imbalances[0].candidates == 1
    assert books.verdict is Verdict.FAIL
    assert "5" in books.reasons[0]
    assert hop in books.reasons[0]


def test_lost_frame_among_those_dropped_by_right() -> None:
    run = Small()
    for frame in (5, 14, 15):
        run.forget("arrived", frame)
        run.socket[frame] = 0
    run.records = [enqueue(8), enqueue(8, 2), kthread(8), kthread(6)]
    books = run.close()
    assert found(books) == [("delivered", Kind.MISSING, Place(cpu=2), 1, (5, 14, 15))]
    assert books.imbalances[0].candidates == 3
    assert "among 3 frames 5, 14, 15" in str(books.imbalances[0])


def test_frame_lost_before_the_socket() -> None:
    run = Small()
    run.socket[5] = 0
    assert found(run.close()) == [("socket", Kind.MISSING, Place(), 1, (5,))]
    run.socket_drops = 1
    assert run.close().balanced
    run.socket_drops = 2
    assert found(run.close()) == [("socket", Kind.EXCESS, Place(), 1, ())]


def test_doubled_at_xdp() -> None:
    run = Small()
    run.seen[5] = replace(run.seen[5], count=2)
    assert ("seen", Kind.DOUBLED, Place(), 1, (5,)) in found(run.close())


def test_doubled_at_the_stack() -> None:
    run = Small()
    run.arrived[5] = replace(run.arrived[5], count=2)
    books = run.close()
    assert ("delivered", Kind.DOUBLED, Place(), 1, (5,)) in found(books)
    assert ("delivered", Kind.EXCESS, Place(cpu=2), 1, ()) in found(books)


def test_doubled_at_the_socket() -> None:
    run = Small()
    run.socket[5] = 2
    assert ("socket", Kind.DOUBLED, Place(), 1, (5,)) in found(run.close())


def test_lost_and_doubled_do_not_cancel() -> None:
    run = Small()
    run.forget("arrived", 4)
    run.arrived[5] = replace(run.arrived[5], count=2)
    assert ("delivered", Kind.DOUBLED, Place(), 1, (5,)) in found(run.close())


def test_misrouted() -> None:
    run = Small()
    run.forget("arrived", 5)
    run.arrived[5] = Hop(1, 3, PASS, 1, NO_CPU, 64)
    books = run.close()
    assert ("delivered", Kind.MISROUTED, Place(None, 0, 3), 1, (5,)) in found(books)
    unpinned = replace(run.known(), pinned=False)
    assert close_books(run.evidence(), unpinned).balanced


def test_passed_frames_arrive_where_they_came_in() -> None:
    run = Small()
    run.seen[15] = replace(run.seen[15], verdict=PASS)
    run.records = [enqueue(8), enqueue(7), kthread(8), kthread(7)]
    misrouted = ("delivered", Kind.MISROUTED, Place(None, 0, 2), 1, (15,))
    assert misrouted in found(run.close())
    run.arrived[15] = Hop(1, 0, PASS, 1, NO_CPU, 64)
    books = run.close()
    assert books.balanced, books.reasons
    assert [(row.cpu, row.delivered) for row in books.per_cpu] == [(0, 1), (2, 15), (3, 0)]
    run.arrived[15] = Hop()
    run.socket[15] = 0
    assert found(run.close()) == [("delivered", Kind.MISSING, Place(producer=0), 1, (15,))]


def test_dropped_frames_may_not_arrive() -> None:
    run = Small()
    run.seen[15] = replace(run.seen[15], verdict=DROP)
    run.records = [enqueue(8), enqueue(7), kthread(8), kthread(7)]
    books = run.close()
    assert found(books) == [("delivered", Kind.STRAY, Place(), 1, (15,))]
    assert books.stray == 1


def test_frames_beyond_those_injected() -> None:
    run = Small()
    run.seen.append(Hop(1, 0, PASS, 17, NO_CPU, 64))
    run.arrived.append(Hop())
    run.socket.append(0)
    books = run.close()
    assert found(books) == [("seen", Kind.STRAY, Place(), 1, (16,))]
    assert books.stray == 1


@pytest.mark.parametrize("index", range(4))
def test_event_removed(index: int) -> None:
    run = Small()
    removed = run.records.pop(index)
    books = run.close()
    hops = {item.hop for item in books.imbalances}
    assert hops == (
        {"enqueued", "taken"} if isinstance(removed, CpumapEnqueue) else {"taken", "delivered"}
    )
    assert all(item.count == 8 and not item.frames for item in books.imbalances)


def test_wrong_to_cpu() -> None:
    run = Small()
    run.records[0] = enqueue(8, to_cpu=3)
    assert ("enqueued", Kind.MISSING, Place(None, 0, 2), 8, ()) in found(run.close())
    assert ("enqueued", Kind.EXCESS, Place(None, 0, 3), 8, ()) in found(run.close())


def test_foreign_events() -> None:
    run = Small()
    run.records.append(replace(enqueue(1), map_id=77))
    run.records.append(enqueue(1, to_cpu=9))
    run.records.append(replace(failure(-75), prog_id=404))
    strays = [item.detail for item in run.close().imbalances if item.kind is Kind.STRAY]
    assert strays == [
        "events of cpumap 77, which is not in play",
        "events of an entry 9 that cpumap 5 never had",
        "events of program 404, which is not in play",
    ]


def test_reordered() -> None:
    run = Small()
    run.arrived[4], run.arrived[5] = run.arrived[5], run.arrived[4]
    assert found(run.close()) == [("delivered", Kind.REORDERED, Place(cpu=2), 1, (5,))]
    assert close_books(run.evidence(), replace(run.known(), ordered=False)).balanced


def test_resized() -> None:
    run = Small()
    run.arrived[4] = replace(run.arrived[4], length=60)
    assert found(run.close()) == [("delivered", Kind.RESIZED, Place(), 1, (4,))]
    assert close_books(run.evidence(), replace(run.known(), intact=False)).balanced


def test_contradictory_notes_are_no_verdict() -> None:
    run = Small()
    run.seen[4] = replace(run.seen[4], order=9)
    books = run.close()
    assert [item.kind for item in books.imbalances] == [Kind.ILLEGIBLE]
    assert books.verdict is Verdict.INVALID
    run.socket[3] = 0
    assert run.close().verdict is Verdict.FAIL
