"""A run's trace for ui.perfetto.dev: tracks per CPU, and counters of what waits in each ring.

Source: protos/perfetto/trace/track_event/track_event.proto of Perfetto.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from dataclasses import dataclass, fields
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any, get_args

from harness.report.depth import depths, keys_of
from harness.trace.events import CpumapEnqueue, CpumapKthread, Event, TypedRecord, event_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from harness.report.depth import Key
    from harness.report.story import Story
    from harness.trace.events import Record

SEQUENCE = 1
INT64_MAX = (1 << 63) - 1
ON_THE_TRACK = ("cpu", "ts", "act", "producer", "kthread_cpu")
"""Fields that a track or a name tells already."""


def _others(kind: type[TypedRecord]) -> tuple[tuple[str, ...], attrgetter[tuple[Any, ...]]]:
    names = tuple(field.name for field in fields(kind) if field.name not in ON_THE_TRACK)
    return names, attrgetter(*names)


FIELDS = {kind: _others(kind) for kind in get_args(TypedRecord)}
"""The other fields of each kind of record, and what takes them; those that are 0 are left out."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The events of a trace.

    Attributes:
        events: how many there are, by name; "enqueue" and "take" are cpumap's own two.
        span_s: from the first to the last, in seconds.
    """

    events: Mapping[str, int]
    span_s: float


def count_events(packed: bytes) -> Counts:
    """Count the events of a trace that `write_perfetto` wrote.

    Raises:
        ValueError: it is none.
    """
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos  # noqa: PLC0415

    try:
        trace = protos.Trace.FromString(gzip.decompress(packed))
    except (OSError, EOFError, zlib.error, DecodeError) as error:
        raise ValueError(str(error)) from None
    if not trace.packet:  # gzip takes nothing for the packed form of nothing
        raise ValueError("it is empty")
    instant = protos.TrackEvent.TYPE_INSTANT
    found = [packet for packet in trace.packet if packet.track_event.type == instant]
    times = [packet.timestamp for packet in found] or [0]
    names = (re.sub(r"^(enqueue|take) \d.*", r"\1", packet.track_event.name) for packet in found)
    return Counts(dict(sorted(Counter(names).items())), (max(times) - min(times)) / 1e9)


def write_perfetto(story: Story) -> bytes:
    """Return the trace, gzipped; Perfetto unpacks it itself."""
    return gzip.compress(_Writer(story).write(), compresslevel=6, mtime=0)


class _Writer:
    """Writes packets; tracks are described when they are first used."""

    def __init__(self, story: Story) -> None:
        # takes a while to import: only who writes traces pays for it
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos  # noqa: PLC0415
        from perfetto.trace_builder.proto_builder import TraceProtoBuilder  # noqa: PLC0415

        self._story = story
        self._builder = TraceProtoBuilder()
        self._types = protos.TrackEvent
        self._numbers = count(1)
        self._tracks: dict[tuple[Any, ...], int] = {}
        self._qsizes = {(ring.map_id, ring.cpu): ring.qsize for ring in story.rings}
        self._dropped: dict[Key, int] = {}

    def write(self) -> bytes:
        records = self._story.records
        for cpu in sorted({record.cpu for record in records}):
            self._track("cpu", cpu, name=f"CPU {cpu}")
        for ring in sorted(keys_of(records, self._story.rings)):
            self._ring_track("waiting", ring)
        followed = depths(records, self._story.rings)
        for record, (here, depth) in zip(records, followed, strict=True):
            self._instant(record)
            if here is None:
                continue
            self._counter(record.ts, self._ring_track("waiting", here), depth or 0)
            if isinstance(record, CpumapEnqueue) and record.drops:
                self._dropped[here] = self._dropped.get(here, 0) + record.drops
                self._counter(record.ts, self._ring_track("refused", here), self._dropped[here])
        data: bytes = self._builder.serialize()
        return data

    def _instant(self, record: Record) -> None:
        kind = "others"
        if isinstance(record, CpumapEnqueue):
            kind = "enqueue"
        elif isinstance(record, CpumapKthread):
            kind = "kthread"
        parent = self._track("cpu", record.cpu, name=f"CPU {record.cpu}")
        track = self._track(kind, record.cpu, name=kind, parent=parent)
        event = self._event(record.ts, track, self._types.TYPE_INSTANT)
        event.name = _name(record)
        event.categories.append("cpumap")
        for name, value in _tell_fields(record):
            if not isinstance(value, int):
                event.debug_annotations.add(name=name, string_value=str(value))
            elif value <= INT64_MAX:
                event.debug_annotations.add(name=name, int_value=value)
            else:
                event.debug_annotations.add(name=name, pointer_value=value)

    def _counter(self, ts: int, track: int, value: int) -> None:
        self._event(ts, track, self._types.TYPE_COUNTER).counter_value = value

    def _event(self, ts: int, track: int, kind: int) -> Any:
        packet = self._builder.add_packet()
        packet.timestamp = ts
        packet.trusted_packet_sequence_id = SEQUENCE
        packet.track_event.type = kind
        packet.track_event.track_uuid = track
        return packet.track_event

    def _ring_track(self, what: str, ring: Key) -> int:
        map_id, cpu = ring
        qsize = self._qsizes.get(ring)
        of = f" of {qsize}" if qsize and what == "waiting" else ""
        name = f"map {map_id} entry {cpu}: {what}{of}"
        return self._track(what, *ring, name=name, counter=True)

    def _track(self, *key: object, name: str, parent: int = 0, counter: bool = False) -> int:
        if key in self._tracks:
            return self._tracks[key]
        uuid = self._tracks[key] = next(self._numbers)
        packet = self._builder.add_packet()
        packet.trusted_packet_sequence_id = SEQUENCE
        packet.track_descriptor.uuid = uuid
        packet.track_descriptor.name = name
        if parent:
            packet.track_descriptor.parent_uuid = parent
        if counter:
            packet.track_descriptor.counter.unit_name = "frames"
        return uuid


def _tell_fields(record: Record) -> Iterable[tuple[str, Any]]:
    if isinstance(record, Event):
        return [(k, v) for k, v in record.fields.items() if not k.startswith("common_")]
    names, take = FIELDS[type(record)]
    return [(name, value) for name, value in zip(names, take(record), strict=True) if value]


def _name(record: Record) -> str:
    match record:
        case CpumapEnqueue() if record.drops:
            return f"enqueue {record.offered}, {record.drops} refused"
        case CpumapEnqueue():
            return f"enqueue {record.offered}"
        case CpumapKthread():
            return f"take {record.processed}"
    return event_name(record)
