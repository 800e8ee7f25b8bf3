"""What a live frame costs, from ten thousand frames to ten millions of them.

So many cannot be traced one by one. Tracing is off; they go in pieces, each numbered from 0 again,
and a piece begins when the one before is at the stack. What is counted then: by the XDP program
and by the tc program how many frames came, in all and of each number. No piece is larger than a
ring, so that none can be dropped for want of room. What is not: who enqueued and who took them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench.load import busy_s
from harness.bench.rates import BATCH, PRODUCER
from harness.errors import TrafficError
from harness.guest import Guest
from harness.machine.snapshot import clone
from harness.patience import wait_until
from harness.steering import Plan, Steering

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.machine.machine import Machine, Recipe
    from harness.machine.snapshot import Snapshot

PIECE = 10_000
"""Frames at a time, as many as in the shortest stream."""
WARM = 10 * PIECE
"""Frames before those that count: the first cost more, until TCG has translated the way."""
QSIZE = 16_384
COUNTS = (10_000, 100_000, 1_000_000, 10_000_000)
STALL_S = 60.0
POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of frames, all counted at both ends.

    Attributes:
        frames: how many.
        seconds: from the first one made to the last one at the stack.
        busy_s: CPU time that QEMU and this process had of the host for it.
        rss_kib: resident memory of this process at the end.
    """

    frames: int
    seconds: float
    busy_s: float
    rss_kib: int

    @property
    def cost_us(self) -> float:
        """Microseconds of CPU time for each frame: others on the host are no part of it."""
        return self.busy_s / self.frames * 1e6

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "busy_s": round(self.busy_s, 3),
            "busy_us_per_frame": round(self.cost_us, 3),
            "rss_kib": self.rss_kib,
        }


def stream(
    recipe: Recipe, snapshot: Snapshot, frames: int, advance: Callable[[int], None]
) -> Stream:
    """Send live frames through the cpumap of a fresh clone.

    Args:
        recipe: of the guest.
        snapshot: of the guest.
        frames: how many, a multiple of `PIECE`.
        advance: told now and then how many have come through.

    Raises:
        TrafficError: not all of them were counted at both ends.
        LabError: whatever else stood in the way.
    """
    cpus = tuple(range(recipe.topology.cpus))
    plan = Plan(cpus, dict.fromkeys(cpus, QSIZE), frames=PIECE, socket=False)
    with clone(recipe, snapshot) as machine:
        guest = Guest.of(machine, snapshot.prepared)
        guest.tracer.stop()
        steering = Steering(guest, plan)
        piece = steering.flow(PIECE)
        for done in range(PIECE, WARM + 1, PIECE):
            steering.traffic.stream(piece, cpu=PRODUCER, batch=BATCH)
            _wait_all(steering, done)
        start, before = time.monotonic(), _busy_s(machine)
        for done in range(PIECE, frames + 1, PIECE):
            steering.traffic.stream(piece, cpu=PRODUCER, batch=BATCH)
            _wait_all(steering, WARM + done)
            advance(done)
        seconds, busy = time.monotonic() - start, _busy_s(machine) - before
        _prove(steering, WARM + frames)
    return Stream(frames, seconds, busy, resident_kib())


def _busy_s(machine: Machine) -> float:
    return time.process_time() + busy_s(machine.process.pid)


def _wait_all(steering: Steering, frames: int) -> None:
    """Wait until so many frames in all are at the stack."""
    limit = STALL_S * steering.guest.own.recipe.accel.pace
    if not wait_until(lambda: steering.counted()[1] >= frames, limit, poll_s=POLL_S):
        arrived = steering.counted()[1]
        told = f"{arrived} of {frames} live frames came to the stack within {limit:.0f} s"
        raise steering.guest.stalled(told)


def _prove(steering: Steering, frames: int) -> None:
    """See that each number was counted as often as it was made, at both ends.

    Raises:
        TrafficError: it was not.
    """
    times = frames // PIECE
    ends = zip(("the XDP program", "the stack"), steering.counted(), strict=True)
    columns = steering.recount(PIECE)
    for (where, counted), column in zip(ends, columns, strict=True):
        wrong = [number for number, seen in enumerate(column) if seen != times]
        if counted != frames or wrong:
            raise TrafficError(
                f"of {frames} live frames {where} counted {counted}, and {len(wrong)} numbers not "
                f"{times} times: {wrong[:8]}",
                remedy="a defect of the kernel or of the lab: see the console of the guest",
            )


def resident_kib() -> int:
    """Return what this process has in memory (proc(5), VmRSS)."""
    status = Path("/proc/self/status").read_text()
    return int(next(s.split()[1] for s in status.splitlines() if s.startswith("VmRSS")))
