"""How many frames waited in each entry's ring, as far as the tracepoints tell."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from harness.trace.events import CpumapEnqueue, CpumapKthread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from harness.report.story import Ring
    from harness.trace.events import Record

Key = tuple[int, int]
"""Id of the cpumap, and the entry's key."""


def keys_of(records: Iterable[Record], rings: Iterable[Ring]) -> set[Key]:
    """Return the keys of all rings that are known, or that frames were offered to."""
    offered = {(each.map_id, each.to_cpu) for each in records if isinstance(each, CpumapEnqueue)}
    return offered | {(ring.map_id, ring.cpu) for ring in rings}


def depths(
    records: Sequence[Record], rings: Iterable[Ring]
) -> Iterator[tuple[Key, int] | tuple[None, None]]:
    """Yield for each record its ring and the frames in it afterwards; of no ring: None, None.

    Frames are traced after they went into the ring (bq_flush_to_queue) and after they left it
    (cpu_map_kthread_run), so a kthread may be seen to take what is not seen to be offered yet:
    then the ring is told to be empty. A kthread's event names only the CPU that it runs on. Where
    no entry has that key, an offline CPU has made it homeless, and it is taken for that of the
    fullest ring of its map.
    """
    inside: defaultdict[Key, int] = defaultdict(int)
    keys = keys_of(records, rings)
    for record in records:
        match record:
            case CpumapEnqueue():
                ring = record.map_id, record.to_cpu
                inside[ring] += record.accepted
            case CpumapKthread():
                ring = record.map_id, record.kthread_cpu
                others = [key for key in inside if key[0] == record.map_id]
                if ring not in keys and others:
                    ring = max(others, key=inside.__getitem__)
                inside[ring] -= record.processed
            case _:
                yield None, None
                continue
        yield ring, max(inside[ring], 0)
