"""The ledger on runs small enough to reckon by hand: 16 frames, from CPU 0 to CPU 2 of map 5."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest

from harness.errors import TraceError
from harness.tests.ledger_worlds import (
    FIRST_MAP,
    XDP_PROG,
    Plan,
    World,
    recount,
)
from harness.trace.events import (
    CpumapEnqueue,
    CpumapKthread,
    Record,
    RingStats,
    Trace,
    XdpAction,
    XdpException,
    XdpRedirectErr,
)
from harness.trace.ledger import (
    NO_CPU,
    Books,
    Circumstances,
    Cpumap,
    Entry,
    Evidence,
    Hop,
    HopTable,
    Kind,
    Law,
    Mode,
    Place,
    SocketCounts,
    Tally,
    close_books,
    count_lost_events,
    quiescent,
)
from harness.trace.ringbuffer import Loss
from harness.verdict import Verdict

ABORTED, DROP, PASS, _, REDIRECT = XdpAction
ENTRY = Place(map_id=FIRST_MAP, cpu=2)


def enqueue(processed: int, drops: int = 0, cpu: int = 0, to_cpu: int = 2) -> CpumapEnqueue:
    return CpumapEnqueue(cpu, 0, FIRST_MAP, REDIRECT, processed, drops, to_cpu, cpu)


def kthread(
    processed: int, drops: int = 0, cpu: int = 2, ok: int = 0, no: int = 0, on: int = 0
) -> CpumapKthread:
    return CpumapKthread(cpu, 0, FIRST_MAP, REDIRECT, processed, drops, cpu, 0, ok, no, on)


def failure(err: int, map_id: int = FIRST_MAP, index: int = 2) -> XdpRedirectErr:
    return XdpRedirectErr(0, 0, XDP_PROG, REDIRECT, 3, err, 0, map_id, index)


def trace(*runs: tuple[int, Record]) -> list[Record]:
    return [record for times, record in runs for _ in range(times)]


@dataclass
class Small:
    """A run that balances as it stands; a test changes what it wants to see noticed."""

    frames: int = 16
    kernel: tuple[int, ...] = (7, 3, 4)
    mode: Mode = Mode.NATIVE
    prog_id: int = 0
    gro: bool = False
    seen: list[Hop] = field(init=False)
    arrived: list[Hop] = field(init=False)
    socket: list[int] = field(init=False)
    socket_drops: int = 0
    records: list[Record] = field(default_factory=lambda: trace((2, enqueue(8)), (2, kthread(8))))

    def __post_init__(self) -> None:
        self.seen = [Hop(1, 0, REDIRECT, frame + 1, 2, 64) for frame in range(self.frames)]
        self.arrived = [Hop(1, 2, PASS, frame + 1, NO_CPU, 64) for frame in range(self.frames)]
        self.socket = [1] * self.frames

    def forget(self, hop: str, frame: int) -> None:
        """Let a frame never have come by a hop, the running numbers closing up behind it."""
        hops: list[Hop] = getattr(self, hop)
        hops[frame] = Hop()
        for later in range(frame + 1, len(hops)):
            if hops[later].count:
                hops[later] = replace(hops[later], order=hops[later].order - 1)

    def evidence(self) -> Evidence:
        evidence = Evidence(
            self.frames,
            HopTable.of(self.seen),
            HopTable.of(self.arrived),
            Trace((), (), {}),
            socket=SocketCounts(self.socket, self.socket_drops),
            flows=[0] * self.frames,
        )
        return recount(evidence, tuple(self.records))

    def known(self) -> Circumstances:
        entries = (Entry(2, self.prog_id), Entry(3))
        return Circumstances(
            kernel=self.kernel,
            mode=self.mode,
            cpumaps=(Cpumap(FIRST_MAP, entries),),
            prog_ids=frozenset({XDP_PROG}),
            gro=self.gro,
        )

    def close(self) -> Books:
        return close_books(self.evidence(), self.known())


def found(books: Books) -> list[tuple[str, Kind, Place, int, tuple[int, ...]]]:
    return [(item.hop, item.kind, item.place, item.count, item.frames) for item in books.imbalances]


def test_balanced_run() -> None:
    books = Small().close()
    assert books.verdict is Verdict.PASS
    assert books.reasons == ()
    assert all(law.holds and law.left == law.right for law in books.laws)
    zero = dict.fromkeys(books.accounts(), 0)
    full = dict.fromkeys(
        ("injected", "seen", "redirected", "enqueued", "accepted", "taken", "delivered", "socket"),
        16,
    )
    assert books.accounts() == zero | full
    row = books.per_cpu[0]
    assert (row.cpu, row.enqueued, row.dropped, row.kthread, row.delivered, row.socket) == (
        *(2, 16, 0, 16, 16),
        16,
    )
    assert [row.cpu for row in books.per_cpu] == [2, 3]


def test_missing_entry_is_aborted() -> None:
    run = Small(frames=64)
    run.seen = [replace(hop, verdict=ABORTED, to_cpu=NO_CPU) for hop in run.seen]
    run.arrived = [Hop()] * 64
    run.socket = [0] * 64
    run.records = [XdpException(0, 0, XDP_PROG, ABORTED, 3)] * 64
    books = run.close()
    assert books.balanced, books.reasons
    assert (books.aborted, books.delivered) == (64, 0)
    run.records.pop()
    assert found(run.close()) == [("exceptions", Kind.MISSING, Place(producer=0), 1, ())]


def test_invalid_verdicts_are_aborted() -> None:
    run = Small()
    run.seen[15] = replace(run.seen[15], verdict=99, to_cpu=NO_CPU)
    run.forget("arrived", 15)
    run.socket[15] = 0
    run.records = [enqueue(8), enqueue(7), kthread(8), kthread(7)]
    assert [item.hop for item in run.close().imbalances] == ["exceptions"]
    run.records.append(XdpException(0, 0, XDP_PROG, 99, 3))
    assert run.close().balanced
    assert run.close().aborted == 1


def test_queue_drops() -> None:
    run = Small()
    for frame in (14, 15):
        run.forget("arrived", frame)
        run.socket[frame] = 0
    run.records = [enqueue(8), enqueue(8, 2), kthread(8), kthread(6)]
    books = run.close()
    assert books.balanced, books.reasons
    assert (books.queue_drops, books.accepted, books.delivered) == (2, 14, 14)


def test_generic_counts_drops_apart_and_says_so_twice() -> None:
    run = Small(mode=Mode.GENERIC)
    run.forget("arrived", 15)
    run.socket[15] = 0
    run.records = [*[enqueue(1)] * 15, enqueue(0, 1), failure(-28), kthread(8), kthread(7)]
    books = run.close()
    assert books.balanced, books.reasons
    assert (books.enqueued, books.queue_drops, books.redirect_errors) == (16, 1, 0)
    run.records.remove(failure(-28))
    at = Place(FIRST_MAP, 0, 2)
    assert found(run.close()) == [("enqueued", Kind.MISSING, at, 1, ())]


def test_redirect_errors() -> None:
    run = Small()
    for frame in (14, 15):
        run.forget("arrived", frame)
        run.socket[frame] = 0
    run.seen[15] = replace(run.seen[15], to_cpu=NO_CPU)
    run.records = [enqueue(8), enqueue(6), kthread(8), kthread(6)]
    run.records += [failure(-75), failure(-56, map_id=0, index=0)]
    books = run.close()
    assert books.balanced, books.reasons
    assert books.redirect_errors == 2


def test_entry_program() -> None:
    run = Small(prog_id=9)
    for frame in (2, 3):
        run.forget("arrived", frame)
        run.socket[frame] = 0
    run.records = [enqueue(8), enqueue(8), kthread(8, ok=6, no=2), kthread(8, ok=8)]
    books = run.close()
    assert books.balanced, books.reasons
    assert (books.prog_pass, books.prog_drop) == (14, 2)
    run.records[2] = kthread(8, ok=6, no=1)
    kinds = [(item.hop, item.kind) for item in run.close().imbalances]
    assert ("taken", Kind.MALFORMED) in kinds
    assert ("taken", Kind.MISSING) in kinds


def test_programs_of_entries_without_one() -> None:
    run = Small()
    run.records[2] = kthread(8, ok=8)
    assert Kind.MALFORMED in [item.kind for item in run.close().imbalances]


def test_replaced_entry_may_answer_either_way() -> None:
    run = Small()
    run.records = [enqueue(8), enqueue(8), kthread(8), kthread(8, ok=8)]
    known = run.known()
    entries = (Entry(2), Entry(2, prog_id=9))
    known = replace(known, cpumaps=(Cpumap(FIRST_MAP, entries),))
    books = close_books(run.evidence(), known)
    assert books.balanced, books.reasons
    assert books.prog_pass == 8


@pytest.mark.parametrize(("kernel", "counted"), [((6, 14), 0), ((6, 15), 8)])
def test_skb_passes_are_counted_from_6_15(kernel: tuple[int, ...], counted: int) -> None:
    run = Small(mode=Mode.GENERIC, kernel=kernel, prog_id=9)
    run.records = trace((16, enqueue(1)), (2, kthread(8, ok=counted)))
    books = run.close()
    assert books.balanced, books.reasons
    assert books.prog_pass == 16
    run.records[-1] = kthread(8, ok=8 - counted)
    assert not run.close().balanced


@pytest.mark.parametrize(("kernel", "balanced"), [((5, 12), True), ((5, 13), False)])
def test_stack_drops_are_no_losses_before_5_13(kernel: tuple[int, ...], balanced: bool) -> None:
    run = Small(kernel=kernel)
    run.records[2] = kthread(8, drops=3)
    assert run.close().balanced is balanced
    if balanced:
        assert run.close().alloc_drops == 0


def test_allocation_drops() -> None:
    run = Small()
    run.forget("arrived", 7)
    run.socket[7] = 0
    run.records[2] = kthread(8, drops=1)
    assert run.close().balanced
    assert run.close().alloc_drops == 1


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


def test_gro_counts_segments() -> None:
    run = Small(gro=True)
    run.arrived = [Hop()] * 16
    run.arrived[0] = Hop(10, 2, PASS, 1, NO_CPU, 640)
    run.arrived[10] = Hop(6, 2, PASS, 2, NO_CPU, 384)
    books = run.close()
    assert books.balanced, books.reasons
    assert books.delivered == 16
    run.arrived[10] = Hop(5, 2, PASS, 2, NO_CPU, 320)
    run.socket[15] = 0
    assert found(run.close()) == [("delivered", Kind.MISSING, Place(cpu=2), 1, (15,))]
    run.arrived[10] = Hop(7, 2, PASS, 2, NO_CPU, 448)
    doubled = [item for item in run.close().imbalances if item.kind is Kind.DOUBLED]
    assert doubled[0].frames == (10,)


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
