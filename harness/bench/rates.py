"""How many frames a second go through a cpumap, and how long each waits in its ring.

Each run has a clone of its own and its books, which must balance. All figures are the guest's: by
its clock, from its tracepoints.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import TrafficError
from harness.guest import Guest
from harness.machine.snapshot import clone
from harness.machine.topology import Topology
from harness.model.gates import LIVE_FRAMES, STACK_KNOWS_CPUMAP_GENERIC
from harness.steering import Plan, Steering
from harness.trace.events import CpumapEnqueue, CpumapKthread
from harness.trace.latency import Waits, describe, list_waits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.machine.machine import Recipe
    from harness.machine.snapshot import Snapshot
    from harness.steering.traffic import Traffic
    from harness.traffic.frames import Flow

INJECTORS = ("socket", "tap", "live", "veth")
MODES = ("native", "generic")
FLOWS = 16
"""Flows to a tap, which spreads them over its queues by their hash."""
MAX_FRAMES = 50_000
"""As many as the trace buffers hold, for reading them meanwhile would cost time."""
WARM = 20_000
"""Frames of the same kind before those that count: until TCG has translated the way, each costs a
multiple, and the more the faster it is otherwise."""
PRODUCER = 0
"""The CPU that makes live frames."""
BATCH = 256
"""Live frames from one flush to the next, as many as the kernel allows (net/bpf/test_run.c,
TEST_XDP_MAX_BATCH): each flush wakes the kthread of every entry that has got some."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured.

    Attributes:
        injector: one of `INJECTORS`.
        kernel: its spec.
        cpus: of the guest, each a destination in turn.
        qsize: of each entry.
        mode: the XDP hook, one of `MODES`.
    """

    injector: str
    kernel: str
    cpus: int
    qsize: int
    mode: str

    @property
    def topology(self) -> Topology:
        """The guest that it takes."""
        taps = (self.cpus,) if self.injector == "tap" else ()
        return Topology(self.cpus, taps=taps)

    def lacks(self, numbers: tuple[int, ...]) -> str:
        """Return why a kernel cannot be measured so; "" if it can."""
        if self.injector == "live" and self.mode == "generic":
            return "live frames know no generic mode"
        for wanted, what, gate in (
            (self.injector == "live", "live frames", LIVE_FRAMES),
            (self.mode == "generic", "generic mode", STACK_KNOWS_CPUMAP_GENERIC),
        ):
            if wanted and not gate.holds(numbers):
                return f"{what}: since {'.'.join(map(str, gate.since))}"
        return ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run, or the medians of several.

    Attributes:
        offered: frames per second that came to rings, full or not: the injector's rate.
        taken: frames per second that kthreads took, from the first one offered on.
        dropped: by full rings, as a share of all.
        waits: in the ring, of the others.
    """

    offered: float
    taken: float
    dropped: float
    waits: Waits


def measure(recipe: Recipe, snapshot: Snapshot, setting: Setting, frames: int) -> Sample:
    """Send frames through the cpumap of a fresh clone.

    Raises:
        TrafficError: the books do not balance, or there is nothing to measure.
        LabError: whatever else stood in the way.
    """
    cpus = tuple(range(setting.cpus))
    entries = dict.fromkeys(cpus, setting.qsize)
    plan = Plan(cpus, entries, mode=setting.mode, frames=WARM + frames, socket=False)
    with clone(recipe, snapshot) as machine:
        guest = Guest.of(machine, snapshot.prepared)
        if setting.injector == "veth":
            guest.put_veth(0)
        steering = Steering(guest, plan)
        _inject(steering.traffic, setting, WARM)
        steering.wait_rest()
        since = guest.tracer.trace().records[-1].ts
        _inject(steering.traffic, setting, frames)
        books, evidence = steering.close(), steering.evidence
        known = steering.circumstances
    if not books.balanced or evidence is None:
        raise TrafficError(
            f"{setting.injector} on {setting.kernel}: the books do not balance: "
            f"{'; '.join(books.reasons)}",
            remedy="a rate of frames that are not accounted for is none: try again on an idle "
            "machine; if it stays, it is a defect of the kernel or of the lab",
        )
    # the rings were empty then
    records = [record for record in evidence.trace.records if record.ts > since]
    waits = [wait for of_cpu in list_waits(records, known).values() for wait in of_cpu]
    if not waits:
        raise TrafficError(f"{setting.injector} on {setting.kernel}: no frame came to a kthread")
    offers = [record for record in records if isinstance(record, CpumapEnqueue)]
    offered = [record.ts for record in offers]
    taken = [r.ts for r in records if isinstance(r, CpumapKthread) and r.processed]
    first = min(offered)
    return Sample(
        frames / _seconds(first, max(offered)),
        len(waits) / _seconds(first, max(taken)),
        sum(record.drops for record in offers) / frames,
        describe(sorted(waits)),
    )


def middle(samples: Sequence[Sample]) -> Sample:
    """Return the medians of some runs, figure by figure."""

    def median(figures: Sequence[float]) -> float:
        return statistics.median(figures)

    waits = [sample.waits for sample in samples]
    return Sample(
        median([sample.offered for sample in samples]),
        median([sample.taken for sample in samples]),
        median([sample.dropped for sample in samples]),
        Waits(
            round(median([each.frames for each in waits])),
            median([each.p50 for each in waits]),
            median([each.p90 for each in waits]),
            median([each.p99 for each in waits]),
            median([each.max for each in waits]),
        ),
    )


def _inject(traffic: Traffic, setting: Setting, frames: int) -> None:
    if setting.injector == "live":
        traffic.live({PRODUCER: traffic.flow(frames)}, batch=BATCH)
        return
    flows = FLOWS if setting.injector == "tap" else 1
    each: list[Flow] = [
        traffic.flow(frames // flows + (number < frames % flows), source_port=10_000 + number)
        for number in range(flows)
    ]
    traffic.send([flow for flow in each if flow.frames])


def _seconds(first_ns: int, last_ns: int) -> float:
    return max(last_ns - first_ns, 1) / 1e9
