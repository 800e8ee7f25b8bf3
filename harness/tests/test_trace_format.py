from __future__ import annotations

import struct

import pytest

from harness.errors import TraceError
from harness.trace.format import (
    Field,
    PageLayout,
    check_header_event,
    parse_format,
    parse_header_page,
)

ENQUEUE = """\
name: xdp_cpumap_enqueue
ID: 579
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;
	field:unsigned char common_preempt_count;	offset:3;	size:1;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

	field:int map_id;	offset:8;	size:4;	signed:1;
	field:u32 act;	offset:12;	size:4;	signed:0;
	field:int cpu;	offset:16;	size:4;	signed:1;
	field:unsigned int drops;	offset:20;	size:4;	signed:0;
	field:unsigned int processed;	offset:24;	size:4;	signed:0;
	field:int to_cpu;	offset:28;	size:4;	signed:1;

print fmt: "enqueue cpu=%d field:int no; offset:1; size:1;", REC->cpu
"""

HEADER_PAGE = """\
	field: u64 timestamp;	offset:0;	size:8;	signed:0;
	field: local_t commit;	offset:8;	size:8;	signed:1;
	field: int overwrite;	offset:8;	size:1;	signed:1;
	field: char data;	offset:16;	size:4080;	signed:0;
"""

HEADER_EVENT = """\
# compressed entry header
	type_len    :    5 bits
	time_delta  :   27 bits
	array       :   32 bits

	padding     : type == 29
	time_extend : type == 30
	time_stamp : type == 31
	data max type_len  == 28
"""


def test_event_format() -> None:
    event = parse_format(ENQUEUE)
    assert (event.name, event.id, len(event.fields)) == ("xdp_cpumap_enqueue", 579, 10)
    assert event.field("to_cpu") == Field("to_cpu", "int", 28, 4, signed=True)
    assert event.field("common_type").ctype == "unsigned short"


@pytest.mark.parametrize(
    ("line", "expected", "is_array", "is_text"),
    [
        ("char prev_comm[16]", ("prev_comm", "char[16]"), True, True),
        ("char comm[TASK_COMM_LEN]", ("comm", "char[TASK_COMM_LEN]"), True, True),
        ("unsigned long args[6]", ("args", "unsigned long[6]"), True, False),
        ("__data_loc char[] name", ("name", "__data_loc char[]"), True, True),
        ("__rel_loc u32[] values", ("values", "__rel_loc u32[]"), True, False),
        ("__data_loc cpumask_t mask", ("mask", "__data_loc cpumask_t[]"), True, False),
        (
            "const struct xdp_mem_allocator * xa",
            ("xa", "const struct xdp_mem_allocator *"),
            False,
            False,
        ),
        ("const void *addr", ("addr", "const void *"), False, False),
        ("enum hrtimer_mode mode", ("mode", "enum hrtimer_mode"), False, False),
    ],
)
def test_field_types(line: str, expected: tuple[str, str], is_array: bool, is_text: bool) -> None:
    text = f"name: x\nID: 1\nformat:\n\tfield:{line};\toffset:8;\tsize:4;\tsigned:1;\n"
    field = parse_format(text).fields[0]
    assert (field.name, field.ctype) == expected
    assert (field.is_array, field.is_text) == (is_array, is_text)


def test_unpacker_finds_fields_wherever_they_are() -> None:
    event = parse_format(ENQUEUE)
    record = struct.pack("<HBBiiIiIIi", 579, 0, 0, 42, 7, 4, 1, 3, 8, 2)
    assert event.unpacker(["to_cpu", "map_id", "drops"])(record) == (2, 7, 3)
    assert event.unpacker(["map_id", "cpu"])(record) == (7, 1)
    assert event.unpacker(["cpu"])(record) == (1,)


def test_missing_field_is_named_with_its_event() -> None:
    event = parse_format(ENQUEUE.replace("to_cpu", "dest_cpu"))
    with pytest.raises(TraceError, match=r"xdp_cpumap_enqueue has no field to_cpu.*dest_cpu"):
        event.unpacker(["to_cpu"])


def test_field_that_is_no_integer() -> None:
    text = "name: x\nID: 1\nformat:\n\tfield:char c[16];\toffset:8;\tsize:16;\tsigned:0;\n"
    with pytest.raises(TraceError, match="no integer"):
        parse_format(text).unpacker(["c"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name: x\nformat:\n\tfield:int a;\toffset:0;\tsize:4;\tsigned:1;\n",
        "name: x\nID: 5\nformat:\n",
        "name: x\nID: 5\nformat:\n\tfield:int a;\toffset:0;\n",
        "name: x\nID: 5\nformat:\n\tfield:int;\toffset:0;\tsize:4;\tsigned:1;\n",
    ],
)
def test_texts_that_are_no_format(text: str) -> None:
    with pytest.raises(TraceError):
        parse_format(text)


def test_header_page() -> None:
    layout = parse_header_page(HEADER_PAGE)
    assert layout == PageLayout()
    assert layout.size == 4096
    assert parse_header_page(HEADER_PAGE.replace("4080", "16368")).size == 16384


@pytest.mark.parametrize(
    "change", [("commit;", "other;"), ("offset:8;\tsize:8", "offset:8;\tsize:4")]
)
def test_header_page_of_another_kind(change: tuple[str, str]) -> None:
    with pytest.raises(TraceError, match="header_page"):
        parse_header_page(HEADER_PAGE.replace(*change))


def test_header_event() -> None:
    check_header_event(HEADER_EVENT)
    with pytest.raises(TraceError, match="time_extend is 28, not 30"):
        check_header_event(HEADER_EVENT.replace("30", "28"))
    with pytest.raises(TraceError, match="time_stamp is absent"):
        check_header_event(HEADER_EVENT.replace("time_stamp", "stamp"))
