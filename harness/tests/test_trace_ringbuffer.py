"""The decoder against pages that an encoder of our own writes as ring_buffer.c does."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from harness.errors import TraceError
from harness.trace.format import PageLayout
from harness.trace.ringbuffer import Loss, RawEvent, RingReader

PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
MISSED_EVENTS, MISSED_STORED = 1 << 31, 1 << 30


@dataclass
class Page:
    """One sub-buffer in the making; offsets are those of the kernel, sizes in bytes."""

    ts: int = 1_000_000
    size: int = 4096
    data: bytearray = field(default_factory=bytearray)

    def event(self, record: bytes, delta: int = 0) -> Page:
        assert len(record) % 4 == 0
        assert 0 < len(record) <= 112
        self.data += struct.pack("<I", len(record) // 4 | delta << 5) + record
        return self

    def long_event(self, record: bytes, delta: int = 0) -> Page:
        self.data += struct.pack("<II", delta << 5, len(record) + 4) + record
        return self

    def extend(self, delta: int) -> Page:
        low, high = delta & ((1 << 27) - 1), delta >> 27
        self.data += struct.pack("<II", TIME_EXTEND | low << 5, high)
        return self

    def stamp(self, ts: int) -> Page:
        low, high = ts & ((1 << 27) - 1), ts >> 27 & 0xFFFFFFFF
        self.data += struct.pack("<II", TIME_STAMP | low << 5, high)
        return self

    def discarded(self, length: int, delta: int) -> Page:
        self.data += struct.pack("<II", PADDING | delta << 5, length) + b"\xaa" * (length - 4)
        return self

    def void(self, rest: bytes = b"") -> Page:
        self.data += struct.pack("<I", PADDING) + rest
        return self

    def bytes(self, flags: int = 0, missed: int | None = None, upper: int = 0) -> bytes:
        commit = len(self.data) | flags | upper << 32
        tail = b"" if missed is None else struct.pack("<Q", missed)
        raw = struct.pack("<QQ", self.ts, commit) + bytes(self.data) + tail
        return raw.ljust(self.size, b"\0")


def record(event_id: int, size: int = 8) -> bytes:
    return struct.pack("<H", event_id) + b"\x55" * (size - 2)


def decode(*pages: bytes, cpu: int = 3) -> tuple[list[RawEvent], RingReader]:
    reader = RingReader(cpu)
    return list(reader.events(b"".join(pages))), reader


def test_events_and_deltas() -> None:
    page = Page().event(record(7)).event(record(8, 112), delta=5).event(record(0x1234, 4), delta=10)
    events, reader = decode(page.bytes())
    assert events == [
        (3, 1_000_000, 7, record(7)),
        (3, 1_000_005, 8, record(8, 112)),
        (3, 1_000_015, 0x1234, record(0x1234, 4)),
    ]
    assert (reader.decoded, reader.losses) == (3, [])


def test_events_with_a_length_word() -> None:
    page = Page().long_event(record(7, 300), delta=3).event(record(8), delta=1)
    events, _ = decode(page.bytes())
    assert [(ts, event_id, len(raw)) for _, ts, event_id, raw in events] == [
        (1_000_003, 7, 300),
        (1_000_004, 8, 8),
    ]


def test_time_extend_holds_what_27_bits_cannot() -> None:
    delta = (5 << 27) + 123
    events, _ = decode(Page().event(record(7)).extend(delta).event(record(8), delta=2).bytes())
    assert [ts for _, ts, _, _ in events] == [1_000_000, 1_000_000 + delta + 2]


def test_absolute_time() -> None:
    page = Page().stamp(77_000_000_000).event(record(7)).stamp(78_000_000_000).event(record(8))
    assert [ts for _, ts, _, _ in decode(page.bytes())[0]] == [77_000_000_000, 78_000_000_000]


@pytest.mark.parametrize(
    ("before", "absolute"), [((3 << 59) + 50, (3 << 59) + 60), ((3 << 59) - 5, (3 << 59) + 5)]
)
def test_absolute_time_lacks_its_upper_bits(before: int, absolute: int) -> None:
    page = Page(ts=before).stamp(absolute & ((1 << 59) - 1)).event(record(7))
    assert [ts for _, ts, _, _ in decode(page.bytes())[0]] == [absolute]


@pytest.mark.parametrize(("delta", "passes"), [(1, 0), (40, 40)])
def test_discarded_events_keep_their_time(delta: int, passes: int) -> None:
    page = Page().event(record(7)).discarded(28, delta).event(record(8), delta=2)
    assert [(ts, event_id) for _, ts, event_id, _ in decode(page.bytes())[0]] == [
        (1_000_000, 7),
        (1_000_002 + passes, 8),
    ]


def test_padding_without_a_delta_ends_the_page() -> None:
    page = Page().event(record(7)).void(b"\xff" * 16)
    assert len(decode(page.bytes(), Page().event(record(8)).bytes())[0]) == 2
    full = Page()
    while len(full.data) < 4076:
        full.event(record(9, 4))
    events, _ = decode(full.void().bytes() if len(full.data) == 4076 else full.bytes())
    assert len(events) == 510


def test_empty_and_partly_filled_pages() -> None:
    events, reader = decode(Page().bytes(), Page(ts=5).event(record(7)).bytes(), Page().bytes())
    assert [(ts, event_id) for _, ts, event_id, _ in events] == [(5, 7)]
    assert decode()[0] == []
    assert reader.decoded == 1


def test_missed_events() -> None:
    told = Page(ts=10).event(record(7)).bytes(MISSED_EVENTS | MISSED_STORED, missed=17)
    # RB_MISSED_EVENTS is added as a negative int: the upper word is borrowed from.
    silent = Page(ts=20).event(record(7)).bytes(MISSED_EVENTS, upper=0xFFFFFFFF)
    _, reader = decode(told, silent)
    assert reader.losses == [Loss(3, 10, 17), Loss(3, 20, None)]
    assert reader.decoded == 2


def test_longer_sub_buffers() -> None:
    layout = PageLayout(data_size=8176)
    page = Page(size=8192)
    for _ in range(400):
        page.event(record(7), delta=1)
    reader = RingReader(0, layout)
    assert len(list(reader.events(page.bytes() * 2))) == 800


def test_a_reader_goes_on_over_several_reads() -> None:
    reader = RingReader(1)
    for _ in range(3):
        assert len(list(reader.events(Page().event(record(7)).bytes()))) == 1
    assert reader.decoded == 3
    with pytest.raises(TraceError, match="CPU 1, page 3"):
        list(reader.events(Page().void().bytes()[:100]))


LONE = bytearray(struct.pack("<I", TIME_EXTEND))
MALFORMED = {
    "cut short": (Page().event(record(7)).bytes()[:2000], "offset 2000: cut short"),
    "overfull": (Page().bytes(flags=4081), "offset 8: 4081 bytes committed"),
    "event past the commit": (Page(data=bytearray(struct.pack("<II", 20, 0))).bytes(), "offset 16"),
    "length word of nothing": (
        Page(data=bytearray(struct.pack("<II", 1 << 5, 0))).bytes(),
        "offset 16: an event of",
    ),
    "length word of too much": (
        Page(data=bytearray(struct.pack("<II", 1 << 5, 5000))).bytes(),
        "offset 16: an event of",
    ),
    "discarded past the commit": (
        Page(data=bytearray(struct.pack("<II", PADDING | 2 << 5, 500))).bytes(),
        "past the committed data",
    ),
    "extend cut short": (
        Page(
            data=Page().event(record(7, 8)).data * 339 + Page().event(record(7, 4)).data + LONE
        ).bytes(),
        "offset 4092: an event cut short",
    ),
    "no room for the count": (
        Page(data=bytearray(4076)).bytes(MISSED_EVENTS | MISSED_STORED),
        "no room for the count",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_pages_are_named(case: str) -> None:
    raw, message = MALFORMED[case]
    good = Page().event(record(7)).bytes()
    with pytest.raises(TraceError, match=f"CPU 3, page 1, .*{message}"):
        decode(good, raw)
