"""How long frames waited in rings, from the trace: a report, never a reason for a verdict."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.trace.events import CpumapEnqueue, CpumapKthread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.trace.events import Record
    from harness.trace.evidence import Circumstances


@dataclass(frozen=True, slots=True)
class Waits:
    """The distribution of some frames' waits, in µs.

    In a ring, a wait lasts from the event of the frame's enqueueing to that of the kthread that
    took it; on the way into the guest, from when the frame was due.

    Attributes:
        frames: how many waits there are.
        p50, p90, p99: percentiles.
        max: the longest.
    """

    frames: int
    p50: float
    p90: float
    p99: float
    max: float


def measure_waits(records: Iterable[Record], known: Circumstances) -> dict[int, Waits]:
    """Return how the waits are distributed, by CPU (see `list_waits`)."""
    waits = list_waits(records, known)
    return {cpu: describe(sorted(waits[cpu])) for cpu in sorted(waits)}


def list_waits(records: Iterable[Record], known: Circumstances) -> dict[int, list[int]]:
    """Return each frame's wait in ns, by CPU: rings are FIFOs, so the n-th in is the n-th out.

    Where kthreads may leave their CPU nobody knows whose ring they emptied: then it is empty.
    """
    if not known.pinned:
        return {}
    queues: dict[tuple[int, int], deque[tuple[int, int]]] = defaultdict(deque)
    waits: dict[int, list[int]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.ts):
        if isinstance(record, CpumapEnqueue):
            if record.accepted:
                queues[record.map_id, record.to_cpu].append((record.ts, record.accepted))
        elif isinstance(record, CpumapKthread):
            queue, left = queues[record.map_id, record.kthread_cpu], record.processed
            while left and queue:
                since, count = queue.popleft()
                taken = min(left, count)
                left -= taken
                if count > taken:
                    queue.appendleft((since, count - taken))
                waits[record.kthread_cpu] += [record.ts - since] * taken
    return waits


def describe(waits_ns: Sequence[float]) -> Waits:
    """Return the distribution of some waits in ns, in ascending order."""

    def percentile(share: float) -> float:
        return waits_ns[min(int(len(waits_ns) * share), len(waits_ns) - 1)] / 1000

    return Waits(
        len(waits_ns), percentile(0.5), percentile(0.9), percentile(0.99), waits_ns[-1] / 1000
    )
