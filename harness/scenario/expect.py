"""What a scenario expects of a run that is over."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.scenario.parts import Expect
    from harness.trace.books import Books
    from harness.trace.hops import Hop

IN_BOOKS = {
    "delivered": "delivered",
    "dropped": "queue_drops",
    "aborted": "aborted",
    "passed": "passed",
    "prog_pass": "prog_pass",
    "prog_drop": "prog_drop",
    "prog_redirect": "prog_redirect",
    "devices": "devices",
    "socket": "socket",
}
"""The account of the books that an expectation is about."""
OVERTAKERS_NAMED = 4


@dataclass(frozen=True, slots=True)
class Sight:
    """What the guest's programs noted, and its kthreads before the maps were closed.

    Attributes:
        seen: by the XDP programs, by frame number.
        arrived: at tc ingress.
        flows: the flow of each frame.
        kthreads: how many cpumap kthreads there were.
    """

    seen: Sequence[Hop] = ()
    arrived: Sequence[Hop] = ()
    flows: Sequence[int] = ()
    kthreads: int = 0


def find_queues(sight: Sight) -> dict[int, list[int]]:
    """Return the receive queues that each flow came in by: one, but for a flow that was moved."""
    queues = defaultdict[int, set[int]](set)
    for flow, hop in zip(sight.flows, sight.seen, strict=True):
        if hop.count:
            queues[flow].add(hop.rx_queue)
    return {flow: sorted(queues[flow]) for flow in sorted(queues)}


def find_failures(expect: Expect, books: Books, sight: Sight) -> list[str]:
    """Return each expectation that a run does not meet, as a sentence."""
    received = Counter(hop.cpu for hop in sight.seen if hop.count)
    per_cpu: dict[str, Mapping[int, int]] = {
        "delivered": {row.cpu: row.delivered for row in books.per_cpu},
        "dropped": {row.cpu: row.dropped for row in books.per_cpu},
        "received": received,
    }
    totals = {key: getattr(books, account) for key, account in IN_BOOKS.items()}
    totals["received"] = received.total()
    totals["skbs"] = sum(1 for hop in sight.arrived if hop.count)
    failures = []
    for key, total in totals.items():
        wanted = getattr(expect, key)
        if isinstance(wanted, dict):
            found = per_cpu[key]
            for cpu in sorted(wanted.keys() | found.keys()):
                failures += _compare(f"{key} on CPU {cpu}", wanted.get(cpu, 0), found.get(cpu, 0))
        elif wanted is not None:
            failures += _compare(key, wanted, total)
    failures += _find_off_shares(expect, books)
    if expect.kthreads is not None and expect.kthreads != sight.kthreads:
        failures.append(f"kthreads: expected {expect.kthreads}, found {sight.kthreads}")
    if expect.in_order:
        failures += _find_overtakers(sight)
    return failures


def _compare(what: str, wanted: Any, found: int) -> list[str]:
    low, high = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    if low <= found <= high:
        return []
    allowed = str(low) if low == high else f"{low} to {high}"
    noun = "packets" if what == "skbs" else "frames"
    return [f"{what}: expected {allowed} {noun}, found {found}"]


def _find_off_shares(expect: Expect, books: Books) -> list[str]:
    failures = []
    delivered = {row.cpu: row.delivered for row in books.per_cpu}
    for cpu, share in sorted((expect.shares or {}).items()):
        found = delivered.get(cpu, 0) / books.delivered if books.delivered else 0.0
        if abs(found - share) > expect.within + 1e-9:
            span = f" within {expect.within:g}" if expect.within else ""
            failures.append(
                f"share of CPU {cpu}: expected {share:g}{span}, found {found:.4f} "
                f"({delivered.get(cpu, 0)} of {books.delivered} frames)"
            )
    return failures


def _find_overtakers(sight: Sight) -> list[str]:
    """Find frames that reached a CPU before an earlier one of their flow."""
    last: dict[tuple[int, int], tuple[int, int]] = {}
    failures = []
    for frame, (hop, flow) in enumerate(zip(sight.arrived, sight.flows, strict=True)):
        if not hop.count:
            continue
        before, order = last.get((flow, hop.cpu), (frame, 0))
        if hop.order < order:
            failures.append(
                f"order: frame {frame} of flow {flow} reached CPU {hop.cpu} before frame {before}"
            )
        else:
            last[flow, hop.cpu] = (frame, hop.order)
    more = len(failures) - OVERTAKERS_NAMED
    return failures[:OVERTAKERS_NAMED] + ([f"order: and {more} more frames"] if more > 0 else [])
