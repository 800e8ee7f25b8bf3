"""Sums over trace records: what the events of a run say, place by place."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from harness.trace.events import (
    CpumapEnqueue,
    CpumapKthread,
    Event,
    Record,
    TypedRecord,
    XdpDevmapXmit,
    XdpException,
    XdpRedirect,
    XdpRedirectErr,
)
from harness.trace.hops import NO_CPU

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.trace.evidence import Circumstances


class Place(NamedTuple):
    """Where something is counted; None stands for all.

    Attributes:
        map_id: id of the cpumap.
        producer: CPU that the frames came from.
        cpu: CPU that they go to, or are on.
    """

    map_id: int | None = None
    producer: int | None = None
    cpu: int | None = None

    def __str__(self) -> str:
        parts = []
        if self.map_id is not None:
            parts.append(f"map {self.map_id}")
        if self.producer is not None:
            parts.append(f"from CPU {self.producer}")
        if self.cpu is not None:
            parts.append("to no CPU" if self.cpu == NO_CPU else f"CPU {self.cpu}")
        return ", ".join(parts) or "all CPUs"


class Tally:
    """How often each record occurred, times left out. Grows with every `add`."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._shapes: dict[type[TypedRecord], Counter[tuple[int, ...]]] = {}
        self.add(records)

    def add(self, records: Iterable[Record]) -> None:
        """Count more records."""
        groups: dict[type[TypedRecord], list[TypedRecord]] = {}
        for record in records:
            if not isinstance(record, Event):
                groups.setdefault(type(record), []).append(record)
        for kind, group in groups.items():
            names = [item.name for item in fields(kind) if item.name != "ts"]
            self._shapes.setdefault(kind, Counter()).update(map(attrgetter(*names), group))

    def __iter__(self) -> Iterator[tuple[TypedRecord, int]]:
        """Yield each distinct record, its time set to 0, with the number of its occurrences."""
        for kind, shapes in self._shapes.items():
            for (cpu, *values), times in shapes.items():
                yield kind(cpu, 0, *values), times


@dataclass(frozen=True, slots=True)
class Sums:
    """What a tally says under the circumstances of a run, in frames.

    Attributes:
        offered: to rings, by producer and key.
        accepted: by rings, by map and key.
        queue_drops: by key.
        ring_said_full: drops that a generic-mode ring must have answered with -ENOSPC, by place.
        ring_full: xdp_redirect_err with -ENOSPC for a cpumap, by place.
        announced: frames for which there must be an xdp_redirect, by place.
        redirects: xdp_redirect records for a cpumap, by place.
        taken: by kthreads, by map and CPU.
        passed: on their way to the stack from kthreads, by CPU (allocation drops included).
        kthread_drops: `drops` of the kthread events, by CPU.
        straight: taken by kthreads of entries without a program, by CPU.
        prog_pass: passed by entries' programs, by CPU; inferred where the kernel does not count.
        prog_drop: dropped by entries' programs, by CPU.
        forwarded: redirected by entries' programs, by map and CPU.
        errors: xdp_redirect_err of the devices' programs but a full ring's, by producer and key;
            key `NO_CPU` when it is none of a cpumap's.
        entry_errors: xdp_redirect_err of entries' programs, by CPU.
        entry_ring_full: of those, for a full ring of a cpumap, by producer and key.
        exceptions: of the devices' programs, by CPU and action.
        entry_exceptions: of entries' programs, by CPU.
        sent_off: xdp_redirect records for a device, by producer.
        bulks: frames that were given to devices in bulks, by producer; skbs are none of them.
        devices: frames that went to devices, by producer, and if redirects are traced, skbs.
    """

    offered: Counter[Place] = field(default_factory=Counter)
    accepted: Counter[Place] = field(default_factory=Counter)
    queue_drops: Counter[Place] = field(default_factory=Counter)
    ring_said_full: Counter[Place] = field(default_factory=Counter)
    ring_full: Counter[Place] = field(default_factory=Counter)
    announced: Counter[Place] = field(default_factory=Counter)
    redirects: Counter[Place] = field(default_factory=Counter)
    taken: Counter[Place] = field(default_factory=Counter)
    passed: Counter[Place] = field(default_factory=Counter)
    kthread_drops: Counter[Place] = field(default_factory=Counter)
    straight: Counter[Place] = field(default_factory=Counter)
    prog_pass: Counter[Place] = field(default_factory=Counter)
    prog_drop: Counter[Place] = field(default_factory=Counter)
    forwarded: Counter[Place] = field(default_factory=Counter)
    errors: Counter[Place] = field(default_factory=Counter)
    entry_errors: Counter[Place] = field(default_factory=Counter)
    entry_ring_full: Counter[Place] = field(default_factory=Counter)
    exceptions: Counter[tuple[int, int]] = field(default_factory=Counter)
    entry_exceptions: Counter[Place] = field(default_factory=Counter)
    sent_off: Counter[Place] = field(default_factory=Counter)
    bulks: Counter[Place] = field(default_factory=Counter)
    devices: Counter[Place] = field(default_factory=Counter)


def add_up(tally: Tally, known: Circumstances) -> Sums:
    """Sum a tally; events of cpumaps that are not in play are left out."""
    sums = Sums()
    for record, times in tally:
        match record:
            case CpumapEnqueue() if record.map_id in known.map_ids:
                _add_enqueue(sums, record, times)
            case CpumapKthread() if record.map_id in known.map_ids:
                _add_kthread(sums, record, times, known)
            case XdpRedirect() if record.map_id in known.map_ids:
                sums.redirects[Place(record.map_id, record.cpu, record.map_index)] += times
            case XdpRedirectErr():
                _add_error(sums, record, times, known)
            case XdpRedirect():
                sums.sent_off[Place(producer=record.cpu, cpu=NO_CPU)] += times
            case XdpDevmapXmit():
                place = Place(producer=record.cpu, cpu=NO_CPU)
                sums.bulks[place] += (record.sent + record.drops) * times
            case XdpException() if record.prog_id in known.entry_prog_ids:
                sums.entry_exceptions[Place(cpu=record.cpu)] += times
            case XdpException():
                sums.exceptions[record.cpu, record.act & 0xFFFF] += times
    sums.devices.update(sums.sent_off if known.redirects_traced else sums.bulks)
    return sums


def merge(counts: Counter[Place], *dimensions: str) -> Counter[Place]:
    """Return the counts with these dimensions of their places given up."""
    merged: Counter[Place] = Counter()
    for place, count in counts.items():
        merged[place._replace(**dict.fromkeys(dimensions))] += count
    return merged


def plus(*parts: Counter[Place]) -> Counter[Place]:
    """Return the sum of counts; unlike `+` on Counters it keeps what is not positive."""
    total: Counter[Place] = Counter()
    for part in parts:
        total.update(part)
    return total


def _add_enqueue(sums: Sums, event: CpumapEnqueue, times: int) -> None:
    everywhere = Place(event.map_id, event.producer, event.to_cpu)
    sums.offered[everywhere._replace(map_id=None)] += event.offered * times
    sums.accepted[everywhere._replace(producer=None)] += event.accepted * times
    sums.queue_drops[Place(cpu=event.to_cpu)] += event.drops * times
    # Native: redirect succeeds before the ring is tried. Generic: only when the ring took the skb.
    # So both come to `processed`, and only a generic drop is an error of the redirect itself.
    sums.announced[everywhere] += event.processed * times
    if event.processed == 0:
        sums.ring_said_full[everywhere] += event.drops * times


def _add_kthread(sums: Sums, event: CpumapKthread, times: int, known: Circumstances) -> None:
    here = Place(cpu=event.kthread_cpu)
    sums.taken[here._replace(map_id=event.map_id)] += event.processed * times
    sums.passed[here] += event.passed * times
    sums.kthread_drops[here] += event.drops * times
    verdicts = event.xdp_pass + event.xdp_drop + event.xdp_redirect
    entries = known.entries_at(event.map_id, event.kthread_cpu)
    programs = {bool(entry.prog_id) for entry in entries}
    if programs == {False} or (programs == {False, True} and not verdicts):
        sums.straight[here] += event.processed * times
        sums.prog_pass[here] += event.xdp_pass * times
    elif known.counts_every_pass:
        sums.prog_pass[here] += event.xdp_pass * times
    else:
        sums.prog_pass[here] += event.passed * times
    sums.prog_drop[here] += event.xdp_drop * times
    sums.forwarded[here._replace(map_id=event.map_id)] += event.xdp_redirect * times


def _add_error(sums: Sums, error: XdpRedirectErr, times: int, known: Circumstances) -> None:
    ours = error.map_id in known.map_ids
    ring_full = ours and error.err == -errno.ENOSPC
    place = Place(producer=error.cpu, cpu=error.map_index if ours else NO_CPU)
    if ring_full:
        sums.ring_full[place._replace(map_id=error.map_id)] += times
    if error.prog_id in known.entry_prog_ids:
        sums.entry_errors[Place(cpu=error.cpu)] += times
        if ring_full:
            sums.entry_ring_full[place] += times
    elif not ring_full:
        sums.errors[place] += times
