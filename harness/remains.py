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
from harness.machine.command import hardware
from harness.machine.snapshot import freeze
from harness.paths import cache_dir
from harness.report.story import Arrival, Ring, Story
from harness.trace.latency import measure_waits
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.guest import Guest
    from harness.machine.hang.findings import Hang
    from harness.report.record import RunRecord
    from harness.report.story import Expectation
    from harness.steering import Steering
    from harness.trace.books import Books

STATE, ABOUT = "guest.state.gz", "guest.json"
"""What is kept of a guest: its state, and what it ran on."""
FORMAT = 1
"""Of `ABOUT`; `harness.frozen` refuses a newer one."""


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
    hang: Hang | None = None,
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
        hang=hang.text if hang else "",
    )


TELLING = (Verdict.FAIL, Verdict.CRASH, Verdict.INVALID)
"""Verdicts on runs whose guest is worth a look."""


@contextlib.contextmanager
def frozen_room() -> Iterator[Path]:
    """Give a directory to freeze guests into: what stays in it goes with it."""
    prefix = f"{os.getpid()}-"  # what a killed harness leaves is swept away
    with tempfile.TemporaryDirectory(prefix=prefix, dir=cache_dir("run")) as room:
        yield Path(room)


def worth_freezing(guest: Guest, verdict: Verdict) -> bool:
    """Tell whether there may be something to be seen in a guest, by the verdict on its run."""
    machine, hang = guest.machine, guest.machine.hang
    can = machine.freezes and verdict in TELLING
    # one that has ended itself may have been slow to, and was looked at meanwhile
    return can and (hang is None or hang.kind.in_guest or bool(machine.ended))


def freeze_guest(guest: Guest, room: Path, *, go_on: bool = False) -> dict[str, Path]:
    """Freeze a guest at the moment of judgement; its QEMU may have gone already.

    Args:
        guest: the guest.
        room: where its files are made.
        go_on: let it run on afterwards.

    Returns:
        What to keep, by name: the guest and what is needed to run it on; nothing if it has gone,
        or is of a launcher that cannot freeze.
    """
    if not guest.machine.freezes:
        return {}
    state, about = room / STATE, room / ABOUT
    try:
        freeze(guest.own, state)
    except QemuFailed:
        return {}
    finally:
        if go_on:
            with contextlib.suppress(QemuFailed):  # it has gone: whoever asks it next tells
                guest.own.qmp("cont")
    recipe = guest.own.recipe
    said = {
        "format": FORMAT,
        "ended": guest.machine.ended,
        "kernel": recipe.kernel.spec,
        "sha256": recipe.kernel.sha256,
        "topology": asdict(recipe.topology),
        "qemu": ".".join(map(str, recipe.qemu.version)),
        "accelerator": recipe.accel.name,
        "hardware": hardware(recipe.topology, recipe.accel.cpu),
        "absent": sorted(guest.own.absent),
    }
    about.write_text(json.dumps(said, indent=1))
    return {state.name: state, about.name: about}
