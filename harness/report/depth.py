"""How many frames waited in each entry's ring, as far as the tracepoints tell."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from harness.trace.events import CpumapEnqueue, CpumapKthread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.trace.events import Record

Key = tuple[int, int]
"""Id of the cpumap, and the entry's key."""


def ring_of(record: Record) -> Key | None:
    """Return the ring that a record is about; None when it is about none.

    A kthread is taken for that of the CPU that it runs on, which holds until a CPU goes offline.
    """
    match record:
        case CpumapEnqueue():
            return record.map_id, record.to_cpu
        case CpumapKthread():
            return record.map_id, record.kthread_cpu
    return None


def depths(records: Iterable[Record]) -> Iterator[int | None]:
    """Yield for each record the frames in its ring after it; None for one of no ring.

    Frames are traced after they went into the ring (bq_flush_to_queue) and after they left it
    (cpu_map_kthread_run), so a kthread may be seen to take what is not seen to be offered yet:
    then the ring is told to be empty.
    """
    inside: defaultdict[Key, int] = defaultdict(int)
    for record in records:
        ring = ring_of(record)
        if ring is None:
            yield None
            continue
        if isinstance(record, CpumapEnqueue):
            inside[ring] += record.accepted
        elif isinstance(record, CpumapKthread):
            inside[ring] -= record.processed
        yield max(inside[ring], 0)
