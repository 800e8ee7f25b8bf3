"""What is counted, where, and in which law, on runs small enough to reckon by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.tests.ledger.small import ABORTED, PASS, Small, enqueue, failure, found, kthread, trace
from harness.tests.ledger_worlds import (
    FIRST_MAP,
    XDP_PROG,
)
from harness.trace.events import (
    XdpException,
)
from harness.trace.ledger import (
    NO_CPU,
    Cpumap,
    Entry,
    Hop,
    Kind,
    Mode,
    Place,
    close_books,
)
from harness.verdict import Verdict


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
