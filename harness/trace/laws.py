"""The conservation laws, hop by hop. Each function enters its laws and blames what breaks them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.trace.books import Kind
from harness.trace.census import misnumbered
from harness.trace.events import XdpAction
from harness.trace.evidence import Mode
from harness.trace.hops import NO_CPU
from harness.trace.tally import Place, merge, plus

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.trace.auditor import Auditor
    from harness.trace.census import Cell, Census, Named
    from harness.trace.evidence import Circumstances, Evidence
    from harness.trace.hops import HopTable
    from harness.trace.tally import Sums

_OBEYED = frozenset(XdpAction) - {XdpAction.ABORTED}
"""Verdicts that drivers obey; any other they treat like XDP_ABORTED."""


@dataclass(frozen=True, slots=True)
class Run:
    """All that the laws look at."""

    evidence: Evidence
    known: Circumstances
    census: Census
    sums: Sums

    @property
    def unpinned(self) -> tuple[str, ...]:
        """Dimensions of a kthread's place that mean nothing in this run."""
        return () if self.known.pinned else ("cpu",)

    def count(self, where: Callable[[Cell], Place], weigh: Callable[[Cell], int]) -> Counter[Place]:
        """Sum a weight over all frames, by place."""
        counts: Counter[Place] = Counter()
        for cell, frames in self.census.cells.items():
            if weight := weigh(cell):
                counts[where(cell)] += weight * frames
        return counts

    def lost_to(self, place: Place) -> Named:
        """Name the redirected frames that were bound for a place and are not at the stack."""
        return self.census.name_lost(
            lambda cell: (
                cell.redirected
                and place.producer in (None, cell.producer)
                and (place.cpu in (None, cell.to_cpu) or place.cpu in self.known.reach(cell.to_cpu))
            )
        )


def audit_ingress(audit: Auditor, run: Run) -> None:
    """Injected frames are seen by the XDP program, once each."""
    census, injected = run.census, run.evidence.injected
    unseen = census.name(lambda cell: cell.seen == 0)
    doubled = census.name(lambda cell: cell.seen > 1)
    audit.forbid("seen", Kind.MISSING, unseen, "injected, but the XDP program never saw them")
    audit.forbid("seen", Kind.DOUBLED, doubled, "seen more than once by the XDP program")
    audit.forbid(
        "seen", Kind.STRAY, census.beyond, f"noted, but only {injected} frames were injected"
    )
    audit.law(
        "injected = seen",
        injected,
        census.total(lambda cell: cell.seen),
        "every frame that was proven sent runs through the XDP program once",
        holds=not unseen.count and not doubled.count,
    )
    if not doubled.count:
        check_numbering(audit, "seen", run.evidence.seen, injected)


def audit_exceptions(audit: Auditor, run: Run) -> None:
    """Aborted frames leave an xdp_exception; entries' exceptions are drops of their programs."""
    sums = run.sums
    acts = {XdpAction.ABORTED.value} | {act for _, act in sums.exceptions}
    acts |= {cell.verdict for cell in run.census.cells if cell.seen} - _OBEYED
    for act in sorted(acts):
        noted = run.count(
            lambda cell: Place(producer=cell.producer),
            lambda cell, act=act: cell.seen * (not cell.live) if cell.verdict == act else 0,  # type: ignore[misc]
        )
        traced = {Place(producer=cpu): n for (cpu, its), n in sums.exceptions.items() if its == act}
        if act in _OBEYED:
            failed = merge(sums.errors, "cpu") if act == XdpAction.REDIRECT else Counter()
            may_fail = noted if act == XdpAction.TX else failed
            said = (f"xdp_exception with action {act}", "frames that may have caused one")
            audit.bound("exceptions", traced, may_fail, said)
            continue
        audit.compare(
            "aborted = exceptions" if act == XdpAction.ABORTED else f"verdict {act} = exceptions",
            "exceptions",
            noted,
            traced,
            "a driver traces xdp_exception for every frame that its program aborts; "
            "the runner of live frames for none",
            said=("frames aborted by the XDP program", "xdp_exception"),
        )
    for counts, what in (
        (sums.entry_exceptions, "xdp_exception of entries' programs"),
        (sums.entry_errors, "xdp_redirect_err of entries' programs"),
    ):
        audit.bound("taken", counts, sums.prog_drop, (what, "frames that they dropped"))


def audit_redirects(audit: Auditor, run: Run) -> None:
    """Redirected frames are offered to a ring, given to a device, or traced as an error."""
    sums, known = run.sums, run.known
    given = run.count(
        lambda cell: Place(producer=cell.producer, cpu=cell.to_cpu if cell.redirected else NO_CPU),
        # test_run.c sends a live frame back by a redirect
        lambda cell: cell.seen if cell.redirected or (cell.live and cell.sent_back) else 0,
    )
    vague: tuple[str, ...] = ()
    for place, count in sums.forwarded.items():
        entries = known.entries_at(place.map_id or 0, place.cpu or 0)
        targets = {cpu for entry in entries for cpu in entry.onward or (NO_CPU,) if entry.prog_id}
        if count and (len(targets) > 1 or not known.pinned):
            vague = ("producer", "cpu")
        given[Place(producer=place.cpu, cpu=min(targets, default=NO_CPU))] += count
    audit.compare(
        "redirected + prog_redirect = enqueued + redirect_errors + devices",
        "enqueued",
        merge(plus(given, sums.entry_ring_full), *vague),
        merge(plus(sums.offered, sums.errors, sums.devices), *vague),
        "xdp_do_redirect queues a frame for one target or traces xdp_redirect_err; "
        "the queue is flushed on the same CPU before it takes anything else on",
        said=("redirected", "enqueued, given to a device or in error"),
        lost=run.lost_to,
    )
    audit.compare(
        "queue_drops of skbs = xdp_redirect_err ENOSPC",
        "enqueued",
        sums.ring_said_full,
        sums.ring_full,
        "cpu_map_generic_redirect answers -ENOSPC when the ring is full, the native path nothing",
        said=("skbs refused by a full ring", "xdp_redirect_err with -ENOSPC"),
    )
    if known.redirects_traced:
        said = ("xdp_redirect to a device", "in bulks that a device was given")
        if known.mode is Mode.NATIVE:
            audit.compare(
                "xdp_redirect to devices = devmap_xmit",
                "enqueued",
                sums.sent_off,
                sums.bulks,
                "frames wait in the device's bulk until the flush; an skb is sent by itself",
                said=said,
            )
        else:
            audit.bound("enqueued", sums.bulks, sums.sent_off, said[::-1])
        audit.compare(
            "xdp_redirect = enqueued per map",
            "enqueued",
            sums.redirects,
            sums.announced,
            "xdp_redirect is traced once per frame for which a cpumap answered 0",
            said=("xdp_redirect", "enqueued"),
            lost=run.lost_to,
        )


def audit_rings(audit: Auditor, run: Run) -> None:
    """What rings accept, kthreads take; what kthreads take, they pass on, drop or redirect."""
    sums = run.sums
    accepted, refused = sums.accepted.total(), sums.queue_drops.total()
    audit.law(
        "enqueued = accepted + queue_drops",
        sums.offered.total(),
        accepted + refused,
        "a full ring refuses a frame, an entry's ring that is not full takes it",
        holds=sums.offered.total() == accepted + refused,
    )
    audit.compare(
        "accepted = taken",
        "taken",
        merge(sums.accepted, *run.unpinned),
        merge(sums.taken, *run.unpinned),
        "a kthread drains its ring, even when its entry is deleted; pinned, on the entry's CPU",
        said=("accepted by the ring", "taken by the kthread"),
        lost=run.lost_to,
    )
    redirected = merge(sums.forwarded, "map_id")
    audit.compare(
        "taken = prog_pass + prog_drop + prog_redirect + untouched",
        "taken",
        merge(sums.taken, "map_id"),
        plus(sums.straight, sums.prog_pass, sums.prog_drop, redirected),
        "an entry's program answers for each frame; without one, all go to the stack",
        said=("taken by the kthread", "with a verdict"),
    )


def check_numbering(audit: Auditor, hop: str, table: HopTable, injected: int) -> None:
    """Blame running numbers that no program can have written: then order cannot be judged."""
    for cpu, why in misnumbered(table, injected).items():
        audit.blame(hop, Kind.ILLEGIBLE, Place(cpu=cpu), 1, f"the running numbers have gaps: {why}")
