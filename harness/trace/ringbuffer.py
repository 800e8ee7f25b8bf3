"""Decoder of the kernel's trace ring, as read from `per_cpu/cpuN/trace_pipe_raw`.

Source: kernel/trace/ring_buffer.c, the same from 5.10 to 7.3. A read gives one sub-buffer:

    u64 time of the first event | commit word (u64) | events | zeroes up to the sub-buffer's end

An event is a u32 (type_len in the low 5 bits, time_delta in the upper 27) and what type_len says:

    1..28  data of type_len * 4 bytes
    0      data; a u32 follows that holds its own length plus the data's
    29     padding: with a delta, a discarded event whose length follows; without, the rest is void
    30     time_extend: a u32 follows with the upper bits of the delta
    31     time_stamp: a u32 follows; together an absolute time of 59 bits
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from harness.errors import TraceError
from harness.trace.format import PageLayout

if TYPE_CHECKING:
    from collections.abc import Iterator

RawEvent: TypeAlias = tuple[int, int, int, bytes]
"""CPU, time in ns, event id, record."""

_PADDING, _TIME_EXTEND, _TIME_STAMP = 29, 30, 31
_DELTA_BITS = 27
_ABSOLUTE_BITS = 59
_MISSED_EVENTS = 1 << 31
_MISSED_STORED = 1 << 30
_COMMIT_MASK = (1 << 27) - 1
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Loss:
    """Events that the ring overwrote or refused before a sub-buffer was read.

    Attributes:
        cpu: whose ring.
        ts: time in ns of the first event after the gap.
        count: events lost; None when the kernel had no room to say how many.
    """

    cpu: int
    ts: int
    count: int | None


class RingReader:
    """Decodes the sub-buffers of one CPU, in the order they were read.

    Attributes:
        losses: the gaps met so far.
        decoded: data events yielded so far.
    """

    def __init__(self, cpu: int, layout: PageLayout | None = None) -> None:
        self.cpu = cpu
        self.layout = layout or PageLayout()
        self.losses: list[Loss] = []
        self.decoded = 0
        self._pages = 0

    def events(self, raw: bytes) -> Iterator[RawEvent]:
        """Yield (cpu, time in ns, event id, record) from a run of whole sub-buffers.

        Times are those of the ring's clock, in ns for "local", "global", "mono" and "boot".

        Raises:
            TraceError: a sub-buffer that the kernel cannot have written, with CPU, page, offset.
        """
        size = self.layout.size
        rest = len(raw) % size
        for base in range(0, len(raw) - rest, size):
            yield from self._page(raw, base)
            self._pages += 1
        if rest:
            raise self._malformed(rest, f"cut short, a page has {size} bytes")

    def _page(self, raw: bytes, base: int) -> Iterator[RawEvent]:
        layout, cpu, u32 = self.layout, self.cpu, _U32.unpack_from
        ts: int = _U64.unpack_from(raw, base + layout.timestamp)[0]
        # Only the low word: RB_MISSED_EVENTS is a negative int and sign-extends when it is added.
        commit: int = u32(raw, base + layout.commit)[0]
        position = base + layout.data
        end = position + (commit & _COMMIT_MASK)
        if end > base + layout.size:
            raise self._malformed(layout.commit, f"{end - position} bytes committed")
        if commit & _MISSED_EVENTS:
            if commit & _MISSED_STORED and end + 8 > base + layout.size:
                raise self._malformed(end - base, "no room for the count of missed events")
            count = _U64.unpack_from(raw, end)[0] if commit & _MISSED_STORED else None
            self.losses.append(Loss(cpu, ts, count))
        decoded = 0
        try:
            while position < end:
                word: int = u32(raw, position)[0]
                kind = word & 31
                if 0 < kind < _PADDING:
                    start, stop = position + 4, position + 4 + kind * 4
                elif kind == 0:
                    start, stop = position + 8, position + 4 + u32(raw, position + 4)[0]
                elif kind == _TIME_EXTEND:
                    ts += (word >> 5) + (u32(raw, position + 4)[0] << _DELTA_BITS)
                    position += 8
                    continue
                elif kind == _TIME_STAMP:
                    stamp = (word >> 5) + (u32(raw, position + 4)[0] << _DELTA_BITS)
                    ts = _restore_upper_bits(stamp, ts)
                    position += 8
                    continue
                else:
                    delta = word >> 5
                    if delta == 0:
                        break
                    # 1 stands for 0 here: a discarded event must not look like end padding.
                    ts += delta if delta > 1 else 0
                    position += 4 + u32(raw, position + 4)[0]
                    continue
                if stop > end or stop < start + 2:
                    raise self._malformed(position - base, f"an event of {stop - start} bytes")
                ts += word >> 5
                decoded += 1
                yield cpu, ts, raw[start] | raw[start + 1] << 8, raw[start:stop]
                position = stop
        except struct.error as error:
            raise self._malformed(position - base, f"an event cut short ({error})") from error
        finally:
            self.decoded += decoded
        if position > end:
            raise self._malformed(position - base, "an event reaches past the committed data")

    def _malformed(self, offset: int, what: str) -> TraceError:
        return TraceError(
            f"trace ring of CPU {self.cpu}, page {self._pages}, offset {offset}: {what}",
            remedy="read trace_pipe_raw in whole sub-buffers, of the size in events/header_page",
        )


def _restore_upper_bits(stamp: int, before: int) -> int:
    """Put back the 5 bits that an absolute time cannot hold (rb_fix_abs_ts)."""
    upper = before >> _ABSOLUTE_BITS << _ABSOLUTE_BITS
    if not upper:
        return stamp
    stamp |= upper
    return stamp if stamp >= before else stamp + (1 << _ABSOLUTE_BITS)
