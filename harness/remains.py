"""What a run leaves behind, gathered from its guest and its steering without asking the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report.story import Arrival, Ring, Story

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.guest import Guest
    from harness.report.record import RunRecord
    from harness.report.story import Expectation
    from harness.steering import Steering
    from harness.trace.books import Books


def tell(
    record: RunRecord,
    guest: Guest | None,
    steering: Steering | None,
    books: Books | None,
    *,
    console: str = "",
    dmesg: str = "",
    repeat: str = "",
    expectations: Sequence[Expectation] = (),
) -> Story:
    """Return the story of a run; it may have ended before its guest, its steering or its books.

    The guest may be dead: what was read of its trace buffers is all that is told of them.
    """
    evidence = steering.evidence if steering else None
    arrived = evidence.arrived if evidence else None
    rings = steering.rings if steering else {}
    return Story(
        record=record,
        books=books,
        records=guest.tracer.trace().records if guest else (),
        rings=[Ring(map_id, cpu, qsize) for (map_id, cpu), qsize in sorted(rings.items())],
        frames=steering.frames if steering else (),
        arrivals=[
            Arrival(frame, arrived.cpu[frame], arrived.order[frame])
            for frame in range(len(arrived or ()))
            if arrived and arrived.count[frame]
        ],
        expectations=expectations,
        console=console,
        dmesg=dmesg,
        argv=guest.machine.argv if guest else (),
        repeat=repeat,
    )
