from __future__ import annotations

import struct

import pytest

from harness.errors import TraceError
from harness.tests.test_trace_ringbuffer import MISSED_EVENTS, Page
from harness.trace.events import (
    CpumapEnqueue,
    CpumapKthread,
    Event,
    RingStats,
    Trace,
    XdpDevmapXmit,
    XdpException,
    XdpRedirect,
    XdpRedirectErr,
    decode,
    parse_stats,
)
from harness.trace.format import EventFormat, Field, parse_format
from harness.trace.ringbuffer import Loss

COMMON = (
    "unsigned short common_type, unsigned char common_flags, "
    "unsigned char common_preempt_count, int common_pid"
)
REDIRECT = "int prog_id, u32 act, int ifindex, int err, int to_ifindex, u32 map_id, int map_index"
FIELDS = {
    "xdp_cpumap_enqueue": "int map_id, u32 act, int cpu, unsigned int drops, "
    "unsigned int processed, int to_cpu",
    "xdp_cpumap_kthread": "int map_id, u32 act, int cpu, unsigned int drops, "
    "unsigned int processed, int sched, unsigned int xdp_pass, unsigned int xdp_drop, "
    "unsigned int xdp_redirect",
    "xdp_exception": "int prog_id, u32 act, int ifindex",
    "xdp_redirect": REDIRECT,
    "xdp_redirect_err": REDIRECT,
    "xdp_devmap_xmit": "int from_ifindex, u32 act, int to_ifindex, int drops, int sent, int err",
}
SIZES = {"unsigned short": 2, "unsigned char": 1}


def make_format(name: str, number: int, declared: str) -> EventFormat:
    lines, offset = [], 0
    for declaration in f"{COMMON}, {declared}".split(", "):
        ctype = declaration.rsplit(" ", 1)[0]
        size = SIZES.get(ctype, 4)
        signed = int(ctype == "int")
        lines.append(f"\tfield:{declaration};\toffset:{offset};\tsize:{size};\tsigned:{signed};")
        offset += size
    return parse_format(f"name: {name}\nID: {number}\nformat:\n" + "\n".join(lines) + "\n")


FORMATS = {
    name: make_format(name, 500 + index, declared)
    for index, (name, declared) in enumerate(FIELDS.items())
}


def record(event: EventFormat, *values: int) -> bytes:
    codes = "".join(field.code for field in event.fields)
    return struct.pack(f"<{codes}", event.id, 0, 0, 42, *values)


def read(name: str, *values: int, event: EventFormat | None = None) -> object:
    event = event or FORMATS[name]
    page = Page(ts=90).event(record(event, *values), delta=10)
    (only,) = decode({1: page.bytes()}, [event]).records
    return only


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("xdp_cpumap_enqueue", (7, 4, 1, 3, 8, 2), CpumapEnqueue(1, 100, 7, 4, 8, 3, 2, 1)),
        (
            "xdp_cpumap_kthread",
            (7, 4, 2, 1, 8, 0, 5, 2, 1),
            CpumapKthread(1, 100, 7, 4, 8, 1, 2, 0, 5, 2, 1),
        ),
        ("xdp_exception", (11, 0, 3), XdpException(1, 100, 11, 0, 3)),
        (
            "xdp_redirect",
            (11, 4, 3, 0, 0, 7, 2),
            XdpRedirect(1, 100, 11, 4, 3, 0, 0, 7, 2),
        ),
        (
            "xdp_redirect_err",
            (11, 4, 3, -28, 0, 0x7FFFFFFF, -1),
            XdpRedirectErr(1, 100, 11, 4, 3, -28, 0, 0x7FFFFFFF, -1),
        ),
        (
            "xdp_devmap_xmit",
            (3, 4, 5, 2, 6, -100),
            XdpDevmapXmit(1, 100, 3, 4, 5, 2, 6, -100),
        ),
    ],
)
def test_typed_records(name: str, values: tuple[int, ...], expected: object) -> None:
    assert read(name, *values) == expected


def test_fields_may_be_anywhere() -> None:
    moved = make_format(
        "xdp_exception", 9, "u32 act, int new_in_this_kernel, int ifindex, int prog_id"
    )
    assert read("xdp_exception", 0, 99, 3, 11, event=moved) == XdpException(1, 100, 11, 0, 3)


def test_missing_field() -> None:
    poorer = make_format("xdp_exception", 9, "u32 act, int ifindex")
    with pytest.raises(TraceError, match="event xdp_exception has no field prog_id"):
        decode({}, [poorer])


@pytest.mark.parametrize(
    ("processed", "drops", "offered", "accepted"),
    [(8, 0, 8, 8), (8, 3, 8, 5), (8, 8, 8, 0), (1, 0, 1, 1), (0, 1, 1, 0)],
)
def test_offered_and_accepted_on_either_path(
    processed: int, drops: int, offered: int, accepted: int
) -> None:
    event = CpumapEnqueue(0, 0, 1, 4, processed, drops, 2, 0)
    assert (event.offered, event.accepted) == (offered, accepted)


def test_generic_event() -> None:
    fields = (
        Field("common_type", "unsigned short", 0, 2, signed=False),
        Field("name", "__data_loc char[]", 4, 4, signed=False),
        Field("near", "__rel_loc u8[]", 8, 4, signed=False),
        Field("comm", "char[8]", 12, 8, signed=False),
        Field("args", "u16[2]", 20, 4, signed=False),
        Field("ret", "long", 24, 8, signed=True),
        Field("rest", "char[]", 32, 0, signed=False),
    )
    event = EventFormat("odd", 77, fields)
    raw = struct.pack("<HxxII8s4sq", 77, 4 << 16 | 36, 2 << 16 | 28, b"kworker\0", b"abcd", -5)
    raw += b"tail" + b"eth\0" + b"\x01\x02\0\0"
    only = decode({0: Page(ts=5).event(raw).bytes()}, [event]).records[0]
    assert isinstance(only, Event)
    assert (only.name, only.cpu, only.ts) == ("odd", 0, 5)
    assert only.fields == {
        "common_type": 77,
        "name": "eth",
        "near": b"\x01\x02",
        "comm": "kworker",
        "args": b"abcd",
        "ret": -5,
        "rest": "taileth",
    }


def test_cpus_are_merged_by_time() -> None:
    event = FORMATS["xdp_exception"]
    pages = {
        0: Page(ts=10).event(record(event, 1, 0, 0)).event(record(event, 2, 0, 0), 20).bytes(),
        2: Page(ts=20).event(record(event, 3, 0, 0)).bytes(MISSED_EVENTS),
        3: b"",
    }
    trace = decode(pages, FORMATS.values())
    assert [(item.ts, item.cpu) for item in trace.records] == [(10, 0), (20, 2), (30, 0)]
    assert trace.losses == (Loss(2, 20, None),)
    assert trace.decoded == {0: 2, 2: 1, 3: 0}


def test_traces_are_joined() -> None:
    event = FORMATS["xdp_exception"]
    first = decode({0: Page(ts=10).event(record(event, 1, 0, 0)).bytes()}, [event])
    later = decode({1: Page(ts=5).event(record(event, 1, 0, 0)).bytes(MISSED_EVENTS)}, [event])
    both = Trace((), (), {}) + first + later
    assert both == Trace.join([first, later])
    assert Trace.join([]) == Trace((), (), {})
    assert [item.ts for item in both.records] == [5, 10]
    assert both.decoded == {0: 1, 1: 1}
    assert both.losses == later.losses


def test_event_of_unknown_format() -> None:
    page = Page(ts=10).event(record(FORMATS["xdp_exception"], 1, 0, 0)).bytes()
    with pytest.raises(TraceError, match="CPU 2 recorded event id 502 at 10 ns"):
        decode({2: page}, [FORMATS["xdp_redirect"]])


def test_record_too_short() -> None:
    event = FORMATS["xdp_exception"]
    page = Page(ts=10).event(record(event, 1, 0, 0)[:16]).bytes()
    with pytest.raises(TraceError, match="16 bytes is too short for event id 502"):
        decode({2: page}, [event])


STATS = """\
entries: 3
overrun: 2652
commit overrun: 1
bytes: 120
oldest event ts:  1538.754341
now ts:  1538.763466
dropped events: 4
read events: 348
"""


def test_ring_stats() -> None:
    stats = parse_stats(2, STATS)
    assert stats == RingStats(2, 3, 2652, 1, 4, 348)
    assert stats.lost == 2657
    assert stats.since(RingStats(2, 9, 2600, 0, 4, 300)) == RingStats(2, 3, 52, 1, 0, 48)


def test_ring_stats_of_another_kind() -> None:
    with pytest.raises(TraceError, match="CPU 2 lack dropped_events"):
        parse_stats(2, STATS.replace("dropped", "gone"))
