"""What a run leaves behind, gathered from its guest and its steering without asking the guest."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import QemuFailed
from harness.machine.snapshot import freeze
from harness.paths import cache_dir
from harness.report.story import Arrival, Ring, Story
from harness.trace.latency import measure_waits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
    rings = steering.cpumaps.rings if steering else {}
    records = guest.tracer.trace().records if guest else ()
    return Story(
        record=record,
        books=books,
        records=records,
        waits=measure_waits(records, steering.circumstances) if steering and books else {},
        rings=[Ring(map_id, cpu, qsize) for (map_id, cpu), qsize in sorted(rings.items())],
        frames=steering.traffic.frames if steering else (),
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


@contextlib.contextmanager
def frozen_room() -> Iterator[Path]:
    """Give a directory to freeze guests into: what stays in it goes with it."""
    prefix = f"{os.getpid()}-"  # what a killed harness leaves is swept away
    with tempfile.TemporaryDirectory(prefix=prefix, dir=cache_dir("run")) as room:
        yield Path(room)


def freeze_guest(guest: Guest, room: Path) -> dict[str, Path]:
    """Freeze a guest at the moment of judgement; its QEMU may have gone already.

    Returns:
        What to keep, by name: the guest and what is needed to run it on; nothing if it has gone.
    """
    state, about = room / "guest.state.gz", room / "guest.json"
    try:
        freeze(guest.machine, state)
    except QemuFailed:
        return {}
    recipe = guest.machine.recipe
    said = {
        "kernel": recipe.kernel.spec,
        "sha256": recipe.kernel.sha256,
        "topology": asdict(recipe.topology),
        "qemu": ".".join(map(str, recipe.qemu.version)),
        "accelerator": recipe.accel.name,
        "recipe": recipe.digest(),
    }
    about.write_text(json.dumps(said, indent=1))
    return {state.name: state, about.name: about}
