"""The guest's own description of its trace: event `format` files and the ring's page headers.

Nothing about a record's layout is built in: kernels move, add and widen fields between releases,
and every kernel says in tracefs how it writes its own.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from harness.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FIELD = re.compile(
    r"^\s*field:\s*(?P<declaration>[^;]+);\s*offset:\s*(?P<offset>\d+);"
    r"\s*size:\s*(?P<size>\d+);(?:\s*signed:\s*(?P<signed>[01]);)?"
)
_DECLARATION = re.compile(
    r"^(?P<ctype>.*[\s*])(?P<name>[A-Za-z_]\w*)\s*(?P<array>(?:\[[^\]]*\])*)$"
)
_CODES = {1: "bB", 2: "hH", 4: "iI", 8: "qQ"}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    Attributes:
        name: the C name.
        ctype: the C type, with the dimensions of an array ("char[16]", "__data_loc char[]").
        offset: bytes from the start of the record.
        size: bytes; 0 for an array that runs to the end of the record.
        signed: whether an integer field is signed.
    """

    name: str
    ctype: str
    offset: int
    size: int
    signed: bool

    @property
    def is_dynamic(self) -> bool:
        """Whether the field only says where its data is (`__data_loc`, and `__rel_loc` of 5.16)."""
        return self.ctype.startswith(("__data_loc ", "__rel_loc "))

    @property
    def is_array(self) -> bool:
        """Whether the field holds, or points to, more than one value."""
        return self.is_dynamic or "[" in self.ctype

    @property
    def is_text(self) -> bool:
        """Whether the field is an array of char."""
        return self.is_array and self.ctype.split("[")[0].split()[-1] == "char"

    @property
    def code(self) -> str:
        """The `struct` code of an integer field, little endian."""
        return _CODES[self.size][0 if self.signed else 1]


@dataclass(frozen=True, slots=True)
class EventFormat:
    """How one kernel writes one event.

    Attributes:
        name: the event ("xdp_cpumap_enqueue").
        id: the number that its records carry; it differs from boot to boot of different kernels.
        fields: common fields first, in the order of the file.
    """

    name: str
    id: int
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field:
        """Return the field of this name.

        Raises:
            TraceError: this kernel's event has no such field.
        """
        for field in self.fields:
            if field.name == name:
                return field
        has = ", ".join(field.name for field in self.fields)
        raise TraceError(
            f"event {self.name} has no field {name}; this kernel's fields are: {has}",
            remedy="the tracepoint changed: teach harness/trace/events.py this kernel's names",
        )

    def unpacker(self, names: Sequence[str]) -> Callable[[bytes], tuple[int, ...]]:
        """Return a function from a record to the values of these integer fields, in this order.

        Raises:
            TraceError: a field is missing or no integer; from the returned function,
                `struct.error` when the record is too short.
        """
        fields = [self.field(name) for name in names]
        for field in fields:
            if field.is_array or field.size not in _CODES:
                raise TraceError(
                    f"field {field.name} of event {self.name} is {field.ctype} of {field.size} "
                    "bytes, which is no integer"
                )
        layout, end = "<", 0
        for field in sorted(fields, key=lambda field: field.offset):
            layout += f"{field.offset - end}x{field.code}"
            end = field.offset + field.size
        unpack = struct.Struct(layout).unpack_from
        in_file = sorted(range(len(fields)), key=lambda index: fields[index].offset)
        places = [in_file.index(index) for index in range(len(fields))]
        if places == sorted(places) or len(places) < 2:
            return unpack
        reorder = itemgetter(*places)
        return lambda record: reorder(unpack(record))


@dataclass(frozen=True, slots=True)
class PageLayout:
    """Where things are in one sub-buffer as `trace_pipe_raw` gives it.

    The defaults are those of x86-64 from 5.10 on. From 6.8 (`buffer_subbuf_size_kb`) a sub-buffer
    may be longer than a page; `header_page` tells.

    Attributes:
        timestamp: offset of the u64 time of the first event, in bytes.
        commit: offset of the commit word, in bytes.
        data: offset of the first event, in bytes.
        data_size: room for events, in bytes.
    """

    timestamp: int = 0
    commit: int = 8
    data: int = 16
    data_size: int = 4080

    @property
    def size(self) -> int:
        """Length of a sub-buffer in bytes."""
        return self.data + self.data_size


def parse_format(text: str) -> EventFormat:
    """Parse the `format` file of an event.

    Raises:
        TraceError: the text has no name, no ID, or a field line that makes no sense.
    """
    name, number, fields = "", -1, []
    for line in text.splitlines():
        if line.startswith("name:"):
            name = line[5:].strip()
        elif line.startswith("ID:"):
            number = int(line[3:]) if line[3:].strip().isdigit() else -1
        elif line.startswith("print fmt:"):
            break
        elif line.lstrip().startswith("field:"):
            fields.append(_parse_field(line, name))
    if not name or number < 0 or not fields:
        raise TraceError(f"not an event format (name {name!r}, ID {number}): {text[:200]!r}")
    return EventFormat(name, number, tuple(fields))


def parse_header_page(text: str) -> PageLayout:
    """Parse `events/header_page`.

    Raises:
        TraceError: a field is missing, or the layout is not that of a 64-bit kernel.
    """
    fields = {}
    for line in text.splitlines():
        if line.strip():
            field = _parse_field(line.replace("field: ", "field:"), "header_page")
            fields[field.name] = field
    missing = {"timestamp", "commit", "data"} - fields.keys()
    if missing:
        raise TraceError(f"header_page lacks {', '.join(sorted(missing))}: {text[:200]!r}")
    if fields["timestamp"].size != 8 or fields["commit"].size != 8:
        raise TraceError(f"header_page is not that of a 64-bit kernel: {text[:200]!r}")
    return PageLayout(
        timestamp=fields["timestamp"].offset,
        commit=fields["commit"].offset,
        data=fields["data"].offset,
        data_size=fields["data"].size,
    )


def check_header_event(text: str) -> None:
    """Check that `events/header_event` describes the event headers that we decode.

    They have not changed since 2.6.30 (ring_buffer_print_entry_header); a kernel that says
    otherwise must not be decoded by guess.

    Raises:
        TraceError: naming what differs.
    """
    said = {
        match[1]: int(match[2])
        for match in re.finditer(r"^\s*(\w[\w ]*?)\s*(?::|==)\D*(\d+)", text, re.MULTILINE)
    }
    expected = {
        "type_len": 5,
        "time_delta": 27,
        "array": 32,
        "padding": 29,
        "time_extend": 30,
        "time_stamp": 31,
        "data max type_len": 28,
    }
    differs = [
        f"{name} is {said.get(name, 'absent')}, not {value}"
        for name, value in expected.items()
        if said.get(name) != value
    ]
    if differs:
        raise TraceError(
            f"this kernel's trace ring is not one we can decode: {'; '.join(differs)}",
            remedy="compare events/header_event with harness/trace/ringbuffer.py",
        )


def _parse_field(line: str, event: str) -> Field:
    match = _FIELD.match(line)
    declaration = _DECLARATION.match(match["declaration"].strip()) if match else None
    if not match or not declaration:
        raise TraceError(f"event {event or '?'}: cannot read the field line {line.strip()!r}")
    ctype = " ".join(declaration["ctype"].split()) + declaration["array"]
    if match["declaration"].lstrip().startswith(("__data_loc", "__rel_loc")) and "[" not in ctype:
        ctype += "[]"
    return Field(
        name=declaration["name"],
        ctype=ctype,
        offset=int(match["offset"]),
        size=int(match["size"]),
        signed=match["signed"] == "1",
    )
