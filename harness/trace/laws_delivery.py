"""The conservation laws from the kthread to the stack and the socket."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from harness.trace.books import Kind
from harness.trace.census import Named, overtakers
from harness.trace.evidence import Mode
from harness.trace.hops import NO_CPU
from harness.trace.laws import check_numbering
from harness.trace.tally import Place, merge, plus

if TYPE_CHECKING:
    from harness.trace.auditor import Auditor
    from harness.trace.census import Cell
    from harness.trace.laws import Run


def is_steered(cell: Cell) -> bool:
    """Whether these frames were redirected to a CPU."""
    return cell.redirected and cell.to_cpu != NO_CPU


def is_stray(cell: Cell) -> bool:
    """Whether these frames are somewhere after XDP and should not be."""
    return (cell.arrived > 0 or cell.received > 0) and not (is_steered(cell) or cell.passed)


def allocation_drops(run: Run) -> Counter[Place]:
    """Return the frames that kthreads lost for want of an skb, by CPU (unpinned: in sum).

    Before 5.13 the kernel does not say how many of its `drops` these are: then they are what is
    missing at the stack, up to that number.
    """
    drops = merge(run.sums.kthread_drops, *run.unpinned)
    if not run.known.counts_stack_drops:
        return drops
    passed, arrived = merge(run.sums.passed, *run.unpinned), arrivals(run)
    return Counter(
        {place: min(max(passed[place] - arrived[place], 0), drops[place]) for place in drops}
    )


def arrivals(run: Run) -> Counter[Place]:
    """Return the frames that arrived by way of a kthread, by CPU (unpinned: in sum)."""
    return merge(
        run.count(
            lambda cell: Place(cpu=cell.arrival),
            lambda cell: cell.arrived if is_steered(cell) else 0,
        ),
        *run.unpinned,
    )


def audit_delivery(audit: Auditor, run: Run) -> None:
    """What kthreads and XDP programs pass on arrives at the stack, once, on the right CPU."""
    census, known, evidence = run.census, run.known, run.evidence
    _find_misplaced(audit, run)
    alloc = allocation_drops(run)
    audit.compare(
        "taken - prog_drop - prog_redirect = delivered + alloc_drops",
        "delivered",
        merge(run.sums.passed, *run.unpinned),
        plus(arrivals(run), alloc),
        "the kthread hands every frame that it keeps to the stack, on the CPU that it runs on",
        said=("passed on by the kthread", "at the stack or lost for want of an skb"),
        lost=run.lost_to,
    )
    audit.compare(
        "passed = delivered",
        "delivered",
        run.count(lambda c: Place(producer=c.producer), lambda c: c.seen if c.passed else 0),
        run.count(lambda c: Place(producer=c.producer), lambda c: c.arrived if c.passed else 0),
        "a frame with verdict XDP_PASS goes to the stack on the CPU that received it",
        said=("passed by the XDP program", "at the stack"),
        lost=lambda place: census.name_lost(
            lambda cell: cell.passed and cell.producer == place.producer
        ),
    )
    if not known.chained:
        _balance_destinations(audit, run, alloc)
    if known.intact and not known.gro:
        _find_resized(audit, run)
    doubled = not known.gro and any(cell.arrived > 1 for cell in census.cells)
    if not doubled:
        check_numbering(audit, "delivered", evidence.arrived, evidence.injected)
    legible = all(item.kind is not Kind.ILLEGIBLE for item in audit.imbalances)
    one_lane = known.ordered and known.pinned and not known.gro and known.mode is not Mode.MIXED
    if legible and one_lane:
        _find_overtakers(audit, run)


def audit_socket(audit: Auditor, run: Run) -> None:
    """What arrives at the stack reaches the socket, or its buffer was full."""
    socket, census, gro = run.evidence.socket, run.census, run.known.gro
    if socket is None:
        return
    audit.forbid(
        "socket",
        Kind.DOUBLED,
        census.name(lambda cell: cell.received > 1),
        "received more than once",
    )
    if not gro:
        audit.forbid(
            "socket",
            Kind.STRAY,
            census.name(lambda cell: cell.received > 0 and not cell.arrived and not is_stray(cell)),
            "received, but never noted at the stack",
        )
    delivered = census.total(lambda cell: cell.arrived)
    received = census.total(lambda cell: cell.received)
    drops = socket.drops
    if gro and 0 < drops < delivered - received:
        # A merged skb that finds the buffer full counts once, whatever it holds.
        drops = delivered - received
    audit.compare(
        "delivered = socket + socket_drops",
        "socket",
        {Place(): delivered},
        {Place(): received + drops},
        "the stack hands every frame to the socket, which drops only when its buffer is full",
        said=("at the stack", "received or dropped by the socket"),
        lost=lambda _: census.name(
            lambda cell: not cell.received and (cell.arrived > 0 or (gro and is_steered(cell)))
        ),
    )


def _find_misplaced(audit: Auditor, run: Run) -> None:
    census, known = run.census, run.known
    unseen = census.name(lambda cell: is_stray(cell) and not cell.seen)
    audit.forbid("delivered", Kind.STRAY, unseen, "the XDP program never saw them")
    barred = census.name(lambda cell: is_stray(cell) and cell.seen > 0)
    audit.forbid("delivered", Kind.STRAY, barred, "the XDP program did not let them through")
    if not known.gro:
        doubled = census.name(lambda cell: cell.arrived > 1)
        audit.forbid("delivered", Kind.DOUBLED, doubled, "more than once at the stack")
    overfull = Named.of(census.overfull)
    audit.forbid(
        "delivered", Kind.DOUBLED, overfull, "heads of more segments than their flow had frames"
    )
    for cell in sorted(census.cells):
        right = known.reach(cell.to_cpu) if is_steered(cell) else {cell.producer}
        if not cell.arrived or is_stray(cell) or cell.arrival in right:
            continue
        if is_steered(cell) and not known.pinned:
            continue
        audit.forbid(
            "delivered",
            Kind.MISROUTED,
            census.name(cell.__eq__),
            f"belong on CPU {' or '.join(map(str, sorted(right)))}",
            Place(producer=cell.producer, cpu=cell.arrival),
        )


def _balance_destinations(audit: Auditor, run: Run, alloc: Counter[Place]) -> None:
    sums = run.sums
    here = ("producer", "map_id", *run.unpinned)
    errors = Counter({place: n for place, n in sums.errors.items() if place.cpu != NO_CPU})
    lost = merge(
        run.count(
            lambda cell: Place(cpu=cell.to_cpu),
            lambda cell: cell.seen - cell.arrived if is_steered(cell) else 0,
        ),
        *here,
    )
    losses = (errors, sums.queue_drops, sums.prog_drop, sums.forwarded, alloc)
    owned = merge(plus(*losses), *here)
    audit.law(
        "redirected - delivered = redirect_errors + queue_drops + prog_drop + prog_redirect "
        "+ alloc_drops",
        lost.total(),
        owned.total(),
        "for each destination CPU, the frames that did not arrive are those that somebody owns to",
        holds=all(lost[place] == owned[place] for place in lost.keys() | owned.keys()),
    )


def _find_resized(audit: Auditor, run: Run) -> None:
    seen, arrived = run.evidence.seen, run.evidence.arrived
    columns = zip(seen.length, arrived.length, arrived.count, strict=False)
    named = Named.of(
        frame
        for frame, (before, after, count) in enumerate(columns)
        if before and after and before != after and count and frame < run.evidence.injected
    )
    audit.forbid("delivered", Kind.RESIZED, named, "another length at the stack than at XDP")


def _find_overtakers(audit: Auditor, run: Run) -> None:
    entries = [entry for cpumap in run.known.cpumaps for entry in cpumap.entries]
    lanes = Counter(entry.cpu for entry in entries)
    lanes.update(cpu for entry in entries for cpu in entry.onward)
    single = {entry.cpu for entry in entries if lanes[entry.cpu] == 1 and not entry.onward}
    for cpu, named in overtakers(run.evidence, single).items():
        audit.forbid(
            "delivered",
            Kind.REORDERED,
            named,
            "arrived before a frame that was steered here earlier from the same CPU",
            Place(cpu=cpu),
        )
