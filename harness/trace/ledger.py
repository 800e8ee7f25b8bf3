"""THE LEDGER: closes the books of one run, to the frame.

A pure function over what was observed. A run passes only if every frame that was injected is
accounted for at every hop, by two witnesses that know nothing of each other: the numbered frames
themselves (hop tables) and what the kernel's tracepoints say. See `harness.trace.evidence` for what
goes in and `harness.trace.books` for what comes out.

The laws are those of kernel/bpf/cpumap.c from 5.10 to 7.3.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from harness.trace.auditor import Auditor
from harness.trace.books import Accounts, Books, CpuRow, Imbalance, Kind, Law
from harness.trace.census import Census
from harness.trace.events import XdpAction
from harness.trace.evidence import Circumstances, Cpumap, Entry, Evidence, Mode, SocketCounts
from harness.trace.faults import find_faults
from harness.trace.hops import NO_CPU, Hop, HopTable
from harness.trace.laws import (
    Run,
    audit_exceptions,
    audit_ingress,
    audit_redirects,
    audit_rings,
)
from harness.trace.laws_delivery import (
    allocation_drops,
    audit_delivery,
    audit_socket,
    is_stray,
)
from harness.trace.rest import Pending, Rest, quiescent
from harness.trace.tally import Place, Tally, add_up, merge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.trace.events import RingStats, Trace

__all__ = [
    "NO_CPU",
    "Accounts",
    "Books",
    "Circumstances",
    "CpuRow",
    "Cpumap",
    "Entry",
    "Evidence",
    "Hop",
    "HopTable",
    "Imbalance",
    "Kind",
    "Law",
    "Mode",
    "Pending",
    "Place",
    "Rest",
    "SocketCounts",
    "Tally",
    "close_books",
    "count_lost_events",
    "quiescent",
]


def close_books(evidence: Evidence, known: Circumstances) -> Books:
    """Close the books of a run that is at rest (see `quiescent`)."""
    tally = Tally(evidence.trace.records)
    run = Run(evidence, known, Census(evidence, known), add_up(tally, known))
    audit = Auditor()
    lost_events = count_lost_events(evidence.trace, evidence.rings)
    audit.law(
        "trace events written = read",
        lost_events,
        0,
        "a ring that overran, or was not read to its end, proves nothing (left: events lost)",
        holds=not lost_events,
    )
    audit_ingress(audit, run)
    audit_exceptions(audit, run)
    find_faults(audit, tally, known)
    audit_redirects(audit, run)
    audit_rings(audit, run)
    audit_delivery(audit, run)
    audit_socket(audit, run)
    return _write(run, audit, lost_events)


def count_lost_events(trace: Trace, rings: Iterable[RingStats]) -> int:
    """Return how many events were written, or may have been, but are not in the trace.

    What pages confess and what the ring counted as overrun are the same events, so the greater
    counts. Events still unread, and reads that never reached the decoder, come on top.
    """
    confessed: dict[int, int] = {}
    for loss in trace.losses:
        gap = 1 if loss.count is None else loss.count
        confessed[loss.cpu] = confessed.get(loss.cpu, 0) + gap
    lost = 0
    for ring in rings:
        lost += max(ring.lost, confessed.pop(ring.cpu, 0)) + ring.entries
        lost += abs(ring.read_events - trace.decoded.get(ring.cpu, 0))
    return lost + sum(confessed.values())


def _write(run: Run, audit: Auditor, lost_events: int) -> Books:
    census, sums, socket = run.census, run.sums, run.evidence.socket
    verdicts: Counter[int] = Counter()
    for cell, frames in census.cells.items():
        verdicts[cell.verdict] += cell.seen * frames
    seen = verdicts.total()
    obeyed = sum(verdicts[action] for action in XdpAction if action is not XdpAction.ABORTED)
    return Books(
        injected=run.evidence.injected,
        seen=seen,
        passed=verdicts[XdpAction.PASS],
        dropped=verdicts[XdpAction.DROP],
        aborted=seen - obeyed,
        tx=verdicts[XdpAction.TX],
        redirected=verdicts[XdpAction.REDIRECT],
        redirect_errors=sums.errors.total(),
        enqueued=sums.offered.total(),
        queue_drops=sums.queue_drops.total(),
        accepted=sums.accepted.total(),
        taken=sums.taken.total(),
        prog_pass=sums.prog_pass.total(),
        prog_drop=sums.prog_drop.total(),
        prog_redirect=sums.forwarded.total(),
        alloc_drops=allocation_drops(run).total(),
        devices=sums.devices.total(),
        delivered=census.total(lambda cell: cell.arrived),
        socket=None if socket is None else census.total(lambda cell: cell.received),
        socket_drops=0 if socket is None else socket.drops,
        stray=census.total(is_stray) + census.beyond.count,
        per_cpu=tuple(_rows(run)),
        laws=tuple(audit.laws),
        imbalances=tuple(audit.imbalances),
        lost_events=lost_events,
    )


def _rows(run: Run) -> Iterator[CpuRow]:
    dimensions = ("map_id", "producer")
    enqueued, taken = merge(run.sums.offered, *dimensions), merge(run.sums.taken, *dimensions)
    delivered = run.count(lambda cell: Place(cpu=cell.arrival), lambda cell: cell.arrived)
    # With GRO a received frame may have travelled in the skb of another: it was steered as well.
    received = run.count(
        lambda cell: Place(cpu=cell.arrival if cell.arrived else cell.to_cpu),
        lambda cell: cell.received,
    )
    cpus = {entry.cpu for cpumap in run.known.cpumaps for entry in cpumap.entries}
    for counts in (enqueued, taken, delivered, received):
        cpus |= {place.cpu for place, count in counts.items() if count and place.cpu is not None}
    for cpu in sorted(cpus - {NO_CPU}):
        place = Place(cpu=cpu)
        yield CpuRow(
            cpu=cpu,
            enqueued=enqueued[place],
            dropped=run.sums.queue_drops[place],
            kthread=taken[place],
            delivered=delivered[place],
            socket=None if run.evidence.socket is None else received[place],
        )
