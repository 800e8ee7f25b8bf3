"""Typed trace records, made by the guest's own formats.

What the fields mean, per kernel, is in include/trace/events/xdp.h and kernel/bpf/cpumap.c.
Two meanings matter to whoever counts: in `CpumapEnqueue`, `processed` includes `drops` on the
native path (bq_flush_to_queue) and excludes them on the generic one (cpu_map_generic_redirect).
"""

from __future__ import annotations

import dataclasses
import enum
import re
import struct
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

from harness.errors import TraceError
from harness.trace.ringbuffer import Loss, RingReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harness.trace.format import EventFormat, Field, PageLayout


class XdpAction(enum.IntEnum):
    """What an XDP program can answer (enum xdp_action)."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


@dataclass(frozen=True, slots=True)
class CpumapEnqueue:
    """`xdp:xdp_cpumap_enqueue`: a bulk of frames, or one skb, was offered to an entry's ring.

    Attributes:
        cpu: CPU whose ring holds the record.
        ts: time in ns.
        map_id: id of the cpumap.
        act: always XDP_REDIRECT.
        processed: frames offered (native, drops included) or accepted (generic).
        drops: frames refused because the ring was full.
        to_cpu: key of the entry.
        producer: CPU that the event itself names.
    """

    cpu: int
    ts: int
    map_id: int
    act: int
    processed: int
    drops: int
    to_cpu: int
    producer: int

    @property
    def offered(self) -> int:
        """Frames offered to the ring, on either path."""
        return max(self.processed, self.drops)

    @property
    def accepted(self) -> int:
        """Frames that the ring took, on either path."""
        return self.offered - self.drops


@dataclass(frozen=True, slots=True)
class CpumapKthread:
    """`xdp:xdp_cpumap_kthread`: an entry's kthread took up to 8 frames from its ring.

    Attributes:
        cpu: CPU whose ring holds the record.
        ts: time in ns.
        map_id: id of the cpumap.
        act: always XDP_REDIRECT.
        processed: frames and skbs taken.
        drops: skb allocation failures; before 5.13 also NET_RX_DROP from the stack.
        kthread_cpu: CPU that the event itself names: where the kthread ran, not its key.
        sched: 1 when it slept or was rescheduled before this batch.
        xdp_pass: verdicts of the entry's program; before 6.15 skbs are not counted.
        xdp_drop: dropped by the program, for whatever reason.
        xdp_redirect: redirected by the program, before the flush.
    """

    cpu: int
    ts: int
    map_id: int
    act: int
    processed: int
    drops: int
    kthread_cpu: int
    sched: int
    xdp_pass: int
    xdp_drop: int
    xdp_redirect: int

    @property
    def passed(self) -> int:
        """Frames on their way to the stack, allocation failures included."""
        return self.processed - self.xdp_drop - self.xdp_redirect


@dataclass(frozen=True, slots=True)
class XdpException:
    """`xdp:xdp_exception`: a program answered XDP_ABORTED or nonsense, or XDP_TX failed."""

    cpu: int
    ts: int
    prog_id: int
    act: int
    ifindex: int


@dataclass(frozen=True, slots=True)
class XdpRedirect:
    """`xdp:xdp_redirect`: one frame was redirected; its ring was not yet tried (native path)."""

    cpu: int
    ts: int
    prog_id: int
    act: int
    ifindex: int
    err: int
    to_ifindex: int
    map_id: int
    map_index: int


@dataclass(frozen=True, slots=True)
class XdpRedirectErr:
    """`xdp:xdp_redirect_err`: one frame was lost; `err` is the negative errno."""

    cpu: int
    ts: int
    prog_id: int
    act: int
    ifindex: int
    err: int
    to_ifindex: int
    map_id: int
    map_index: int


@dataclass(frozen=True, slots=True)
class XdpDevmapXmit:
    """`xdp:xdp_devmap_xmit`: a bulk of frames was given to a device, `drops` of them in vain."""

    cpu: int
    ts: int
    from_ifindex: int
    act: int
    to_ifindex: int
    drops: int
    sent: int
    err: int


@dataclass(frozen=True, slots=True)
class Event:
    """Any other event: every field of its format by name, common ones included."""

    name: str
    cpu: int
    ts: int
    fields: Mapping[str, int | str | bytes]


TypedRecord: TypeAlias = (
    CpumapEnqueue | CpumapKthread | XdpException | XdpRedirect | XdpRedirectErr | XdpDevmapXmit
)
Record: TypeAlias = TypedRecord | Event
_Maker: TypeAlias = "Callable[[int, int, bytes], Record]"

_TYPED: dict[str, type[TypedRecord]] = {
    "xdp_cpumap_enqueue": CpumapEnqueue,
    "xdp_cpumap_kthread": CpumapKthread,
    "xdp_exception": XdpException,
    "xdp_redirect": XdpRedirect,
    "xdp_redirect_err": XdpRedirectErr,
    "xdp_devmap_xmit": XdpDevmapXmit,
}
_KERNEL_NAMES = {
    (CpumapEnqueue, "producer"): "cpu",
    (CpumapKthread, "kthread_cpu"): "cpu",
}
_NAMES = {kind: name for name, kind in _TYPED.items()}


def event_name(record: Record) -> str:
    """Return the kernel's name of a record's event."""
    return record.name if isinstance(record, Event) else _NAMES[type(record)]


@dataclass(frozen=True, slots=True)
class Trace:
    """What was read from a guest's rings.

    Attributes:
        records: in order of time, over all CPUs.
        losses: gaps that the rings themselves confess.
        decoded: data events read, by CPU.
    """

    records: tuple[Record, ...]
    losses: tuple[Loss, ...]
    decoded: Mapping[int, int]

    @classmethod
    def join(cls, parts: Iterable[Trace]) -> Trace:
        """Return as one what was read from the same rings in several turns."""
        parts = list(parts)
        decoded: Counter[int] = Counter()
        for part in parts:
            decoded.update(part.decoded)
        return cls(
            tuple(sorted(chain.from_iterable(p.records for p in parts), key=attrgetter("ts"))),
            tuple(chain.from_iterable(part.losses for part in parts)),
            dict(sorted(decoded.items())),
        )

    def __add__(self, later: Trace) -> Trace:
        """Return this trace followed by one that was read later; for many, `join` is faster."""
        return Trace.join((self, later))


@dataclass(frozen=True, slots=True)
class RingStats:
    """`per_cpu/cpuN/stats`: what the ring of one CPU knows of itself, in events.

    Attributes:
        cpu: whose ring.
        entries: still unread.
        overrun: overwritten before they were read.
        commit_overrun: refused because nested writers filled the ring.
        dropped_events: refused by a ring that does not overwrite.
        read_events: read since the ring was last cleared.
    """

    cpu: int
    entries: int
    overrun: int
    commit_overrun: int
    dropped_events: int
    read_events: int

    @property
    def lost(self) -> int:
        """Events that were written but can no longer be read."""
        return self.overrun + self.commit_overrun + self.dropped_events

    def since(self, before: RingStats) -> RingStats:
        """Return what happened after `before` was taken (`entries` stays what it is now)."""
        return RingStats(
            cpu=self.cpu,
            entries=self.entries,
            overrun=self.overrun - before.overrun,
            commit_overrun=self.commit_overrun - before.commit_overrun,
            dropped_events=self.dropped_events - before.dropped_events,
            read_events=self.read_events - before.read_events,
        )


def decode(
    pages: Mapping[int, bytes],
    formats: Iterable[EventFormat],
    layout: PageLayout | None = None,
) -> Trace:
    """Decode what was read from each CPU's `trace_pipe_raw` (CPU to bytes).

    Raises:
        TraceError: a malformed page, an event whose format was not given, or one whose format
            lacks a field that its record needs.
    """
    makers = {format.id: make_decoder(format) for format in formats}
    records: list[Record] = []
    losses: list[Loss] = []
    decoded = {}
    for cpu, raw in sorted(pages.items()):
        reader = RingReader(cpu, layout)
        for _, ts, event_id, record in reader.events(raw):
            try:
                records.append(makers[event_id](cpu, ts, record))
            except KeyError:
                raise TraceError(
                    f"CPU {cpu} recorded event id {event_id} at {ts} ns, "
                    f"and no format was given for it (given: {sorted(makers)})",
                    remedy="read the format of every event that is enabled",
                ) from None
            except struct.error as error:
                raise TraceError(
                    f"CPU {cpu}, {ts} ns: a record of {len(record)} bytes is too short "
                    f"for event id {event_id} ({error})"
                ) from error
        losses += reader.losses
        decoded[cpu] = reader.decoded
    records.sort(key=attrgetter("ts"))
    return Trace(tuple(records), tuple(losses), decoded)


def make_decoder(format: EventFormat) -> Callable[[int, int, bytes], Record]:
    """Return a function (cpu, ts in ns, record bytes) -> record for one event of this kernel.

    Raises:
        TraceError: the format lacks a field that the typed record needs.
    """
    record_type = _TYPED.get(format.name)
    if record_type is None:
        return _make_generic(format)
    names = [field.name for field in dataclasses.fields(record_type)][2:]
    unpack = format.unpacker([_KERNEL_NAMES.get((record_type, name), name) for name in names])
    return lambda cpu, ts, record: record_type(cpu, ts, *unpack(record))


def parse_stats(cpu: int, text: str) -> RingStats:
    """Parse the `stats` file of a CPU's ring.

    Raises:
        TraceError: a counter is missing.
    """
    said = dict(re.findall(r"^([\w ]+):\s*(\d+)\s*$", text, re.MULTILINE))
    names = [field.name for field in dataclasses.fields(RingStats)][1:]
    missing = [name for name in names if name.replace("_", " ") not in said]
    if missing:
        raise TraceError(f"ring stats of CPU {cpu} lack {', '.join(missing)}: {text[:200]!r}")
    return RingStats(cpu, *(int(said[name.replace("_", " ")]) for name in names))


def _make_generic(format: EventFormat) -> _Maker:
    integers = [field.name for field in format.fields if not field.is_array]
    unpack = format.unpacker(integers)
    arrays = [field for field in format.fields if field.is_array]

    def make(cpu: int, ts: int, record: bytes) -> Record:
        fields: dict[str, int | str | bytes] = dict(zip(integers, unpack(record), strict=True))
        for field in arrays:
            fields[field.name] = _read_array(field, record)
        return Event(format.name, cpu, ts, fields)

    return make


def _read_array(field: Field, record: bytes) -> str | bytes:
    start, size = field.offset, field.size
    if field.is_dynamic:
        place = int.from_bytes(record[start : start + 4], "little")
        # __rel_loc counts from the end of the field itself, __data_loc from the record's start.
        origin = start + size if field.ctype.startswith("__rel_loc") else 0
        start, size = origin + (place & 0xFFFF), place >> 16
    data = record[start : start + size] if size or field.is_dynamic else record[start:]
    if not field.is_text:
        return data
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")
