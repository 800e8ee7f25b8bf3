"""Evidence that does not reach for a verdict, books as JSON, and worlds at rest."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.errors import TraceError
from harness.tests.ledger.small import ENTRY, Small, enqueue, kthread, trace
from harness.tests.ledger_worlds import (
    Plan,
    World,
)
from harness.trace.events import (
    CpumapKthread,
    RingStats,
    Trace,
)
from harness.trace.ledger import (
    Evidence,
    Hop,
    HopTable,
    Law,
    Mode,
    Place,
    Tally,
    close_books,
    count_lost_events,
    quiescent,
)
from harness.trace.ringbuffer import Loss
from harness.verdict import Verdict


def test_lost_events_make_the_books_invalid() -> None:
    run = Small()
    evidence = run.evidence()
    lossy = replace(evidence, trace=replace(evidence.trace, losses=(Loss(0, 5, None),)))
    books = close_books(lossy, run.known())
    assert (books.lost_events, books.balanced, books.verdict) == (1, False, Verdict.INVALID)
    assert "lost" in books.reasons[0]
    run.socket[3] = 0
    lossy = replace(run.evidence(), trace=replace(evidence.trace, losses=(Loss(0, 5, None),)))
    assert close_books(lossy, run.known()).verdict is Verdict.INVALID


@pytest.mark.parametrize(
    ("losses", "ring", "lost"),
    [
        ((), RingStats(0, 0, 0, 0, 0, 7), 0),
        ((Loss(0, 1, 3),), RingStats(0, 0, 3, 0, 0, 7), 3),
        ((Loss(0, 1, None),), RingStats(0, 0, 5, 0, 0, 7), 5),
        ((Loss(0, 1, None),), RingStats(0, 0, 0, 0, 0, 7), 1),
        ((Loss(1, 1, 4),), RingStats(0, 0, 0, 0, 0, 7), 4),
        ((), RingStats(0, 2, 0, 0, 0, 7), 2),
        ((), RingStats(0, 0, 0, 1, 1, 7), 2),
        ((), RingStats(0, 0, 0, 0, 0, 9), 2),
    ],
)
def test_lost_events_are_counted_once(losses: tuple[Loss, ...], ring: RingStats, lost: int) -> None:
    assert count_lost_events(Trace((), losses, {0: 7}), [ring]) == lost


def test_tables_too_short_for_the_run() -> None:
    with pytest.raises(TraceError, match="arrived has 3"):
        Evidence(4, HopTable.of([Hop()] * 4), HopTable.of([Hop()] * 3), Trace((), (), {}))


def test_a_broken_law_alone_is_a_failure() -> None:
    books = Small().close()
    books = replace(books, laws=(*books.laws, Law("a = b", 1, 2, False, "because")))
    assert books.verdict is Verdict.FAIL
    assert books.reasons == ("broken law: a = b (1 is not 2)",)


def test_frames_named_are_bounded() -> None:
    run = Small(frames=400, records=trace((50, enqueue(8)), (50, kthread(8))))
    run.arrived = [Hop()] * 400
    run.socket = [0] * 400
    item = run.close().imbalances[0]
    assert (item.count, item.candidates, len(item.frames)) == (400, 400, 16)
    assert "and 384 more" in str(item)


def test_books_are_json() -> None:
    run = Small()
    run.forget("arrived", 5)
    said = json.loads(json.dumps(run.close().to_json()))
    assert said["accounts"]["delivered"] == 15
    assert (said["balanced"], said["verdict"]) == (False, "fail")
    assert said["imbalances"][0]["frames"] == [5]
    assert said["per_cpu"][0]["cpu"] == 2


def test_rest() -> None:
    run = Small()
    known = run.known()
    assert quiescent(Tally(), known)
    tally = Tally([enqueue(8), kthread(8), enqueue(8, 1)])
    rest = quiescent(tally, known, injected=20, seen=18, redirected=18, delivered=8)
    assert not rest
    assert [(item.hop, item.place, item.count) for item in rest.pending] == [
        ("seen", Place(), 2),
        ("enqueued", Place(), 2),
        ("taken", ENTRY, 7),
    ]
    assert "taken (map 5, CPU 2): 7 to come" in str(rest)
    tally.add([kthread(7), enqueue(2), kthread(2)])
    assert quiescent(tally, known, injected=18, seen=18, redirected=18, delivered=17)
    assert str(quiescent(tally, known)) == "at rest"
    late = quiescent(tally, known, delivered=16)
    assert [(item.hop, item.count) for item in late.pending] == [("delivered", 1)]


def test_rest_of_an_unpinned_kthread() -> None:
    known = replace(Small().known(), pinned=False)
    assert quiescent(Tally([enqueue(8), kthread(8, cpu=0)]), known)
    assert not quiescent(Tally([enqueue(8), kthread(8, cpu=0)]), Small().known())


def test_every_world_comes_to_rest() -> None:
    for mode in Mode:
        world = World(Plan(mode=mode, prog=True, chain=True, full=0.2, redirect_error=0.1))
        evidence, known = world.run()
        books = close_books(evidence, known)
        totals = {
            "injected": books.injected,
            "seen": books.seen,
            "redirected": books.redirected,
            "delivered": books.delivered,
        }
        records = evidence.trace.records
        assert quiescent(Tally(records), known, **totals)
        last = max(i for i, r in enumerate(records) if isinstance(r, CpumapKthread) and r.processed)
        assert not quiescent(Tally(records[:last]), known)
