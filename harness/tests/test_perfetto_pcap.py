from __future__ import annotations

import gzip
import io
from collections import Counter
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos
from scapy.utils import RawPcapReader

from harness.report.pcap import write_delivered, write_injected
from harness.report.perfetto import write_perfetto
from harness.report.story import Arrival, Story
from harness.tests.stories import busy, make_record, world
from harness.trace.events import CpumapEnqueue, CpumapKthread, Event, XdpAction


def parse(story: Story) -> tuple[dict[int, Any], list[Any]]:
    """Return the tracks by uuid, and the packets with events, by Perfetto's own rules.

    Source: track_descriptor.proto and track_event.proto of Perfetto.
    """
    trace = protos.Trace.FromString(gzip.decompress(write_perfetto(story)))
    size = trace.ByteSize()
    trace.DiscardUnknownFields()
    assert trace.ByteSize() == size, "every field is one of the schema's"
    tracks: dict[int, Any] = {}
    events = []
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id > 0
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            assert track.uuid > 0
            assert track.uuid not in tracks
            assert track.parent_uuid in {0, *tracks}
            tracks[track.uuid] = track
            continue
        event = packet.track_event
        assert packet.HasField("timestamp")
        assert event.track_uuid in tracks, "a track is described before its use"
        is_counter = tracks[event.track_uuid].HasField("counter")
        assert is_counter == (event.type == protos.TrackEvent.TYPE_COUNTER)
        assert is_counter == event.HasField("counter_value")
        assert is_counter or event.name, "what is not interned has its name with it"
        events.append(packet)
    return tracks, events


def path(tracks: dict[int, Any], uuid: int) -> str:
    track = tracks[uuid]
    above = f"{path(tracks, track.parent_uuid)}/" if track.parent_uuid else ""
    return f"{above}{track.name}"


def test_every_record_is_on_the_track_of_its_cpu() -> None:
    story = world(frames=200, verdicts=tuple(XdpAction), prog=True, full=0.1)
    tracks, packets = parse(story)
    instants = [p for p in packets if p.track_event.type == protos.TrackEvent.TYPE_INSTANT]
    assert [p.timestamp for p in instants] == [record.ts for record in story.records]
    for packet, record in zip(instants, story.records, strict=True):
        kind = {CpumapEnqueue: "enqueue", CpumapKthread: "kthread"}.get(type(record), "others")
        assert path(tracks, packet.track_event.track_uuid) == f"CPU {record.cpu}/{kind}"
        notes = {note.name: note.int_value for note in packet.track_event.debug_annotations}
        if isinstance(record, CpumapKthread):
            assert notes.get("processed", 0) == record.processed
            assert notes.get("xdp_drop", 0) == record.xdp_drop


def test_counters_are_what_waits_and_what_was_refused() -> None:
    story = busy(3000)
    tracks, packets = parse(story)
    counters: dict[str, list[int]] = {}
    for packet in packets:
        event = packet.track_event
        if event.type == protos.TrackEvent.TYPE_COUNTER:
            assert tracks[event.track_uuid].counter.unit_name == "frames"
            counters.setdefault(path(tracks, event.track_uuid), []).append(event.counter_value)
    waiting = {name for name in counters if "waiting" in name}
    assert waiting == {f"map 5 entry {cpu}: waiting of 256" for cpu in range(4)}
    entered: Counter[str] = Counter()
    for record in story.records:
        if isinstance(record, CpumapEnqueue):
            entered[f"map 5 entry {record.to_cpu}: waiting of 256"] += record.accepted
        elif isinstance(record, CpumapKthread):
            entered[f"map 5 entry {record.kthread_cpu}: waiting of 256"] -= record.processed
    assert {name: counters[name][-1] for name in waiting} == dict(entered)
    assert max(level for name in waiting for level in counters[name]) == 256
    refused: Counter[str] = Counter()
    for record in story.records:
        if isinstance(record, CpumapEnqueue) and record.drops:
            refused[f"map 5 entry {record.to_cpu}: refused"] += record.drops
    assert refused
    assert {name: counters[name][-1] for name in counters.keys() - waiting} == refused


def test_an_untyped_event_keeps_its_words() -> None:
    records = [Event("sched_switch", 1, 9, {"common_pid": 3, "prev_comm": "cpumap/1/map:5"})]
    _, (packet,) = parse(Story(record=make_record(None), records=records))
    assert packet.track_event.name == "sched_switch"
    (note,) = packet.track_event.debug_annotations
    assert (note.name, note.string_value) == ("prev_comm", "cpumap/1/map:5")


def test_an_address_of_the_kernels_keeps_its_64_bits() -> None:
    address = 0xFFFF888003A5C000
    records = [Event("netif_receive_skb", 1, 9, {"skbaddr": address})]
    _, (packet,) = parse(Story(record=make_record(None), records=records))
    (note,) = packet.track_event.debug_annotations
    assert (note.name, note.pointer_value) == ("skbaddr", address)


def read(pcap: bytes) -> list[tuple[int, bytes]]:
    reader: Any = RawPcapReader(io.BytesIO(pcap))  # type: ignore[arg-type]
    assert reader.linktype == 1
    return [(meta.sec * 1_000_000 + meta.usec, frame) for frame, meta in reader]


def test_injected_and_delivered_frames_lie_side_by_side() -> None:
    story = world(frames=60, full=0.3)
    injected, delivered = read(write_injected(story)), read(write_delivered(story))
    assert injected == list(enumerate(story.frames))
    assert story.books is not None
    assert 0 < len(delivered) == story.books.delivered < 60
    assert delivered == [injected[number] for number, _ in delivered]


def test_frames_that_were_not_kept_are_left_out() -> None:
    arrivals = [Arrival(frame, 2, frame + 1) for frame in range(3)]
    story = Story(record=make_record(None), frames=[b"x" * 60], arrivals=arrivals)
    assert read(write_delivered(story)) == [(0, b"x" * 60)]
    assert read(write_injected(Story(record=make_record(None)))) == []
