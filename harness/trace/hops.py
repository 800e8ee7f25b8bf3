"""Hop tables: what the guest's BPF programs noted about each numbered frame.

A program keeps one 16-byte record per frame in a plain array map, indexed by the frame's
number, little endian:

    u32 count | u16 cpu | u8 verdict | u8 rx_queue | u32 order | u16 to_cpu | u16 length

A million frames are 16 MB; they stay columns of machine integers, never a million objects.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterable

NO_CPU = 0xFFFF
"""`to_cpu` of a frame that no entry was found for: the program names a CPU only when
bpf_redirect_map answered XDP_REDIRECT."""

_RECORD = struct.Struct("<IHBBIHH")


@dataclass(frozen=True, slots=True)
class Hop:
    """One frame at one hop.

    Attributes:
        count: times it was seen here; at the stack, GRO segments under this head frame. 0: never.
        cpu: where.
        verdict: what the XDP program answered, in its low 8 bits (meaningless at the stack).
        order: running number among the frames of this CPU, from 1; all 0: not kept.
        to_cpu: key that an XDP program redirected to, or `NO_CPU` (meaningless at the stack).
        length: bytes from the Ethernet header on; 0: not noted.
        rx_queue: the NIC's queue that it came by (of `struct xdp_md`); at the stack 1 more, as its
            skb has it, or 0 if it does not tell (skb_record_rx_queue).
    """

    count: int = 0
    cpu: int = 0
    verdict: int = 0
    order: int = 0
    to_cpu: int = 0
    length: int = 0
    rx_queue: int = 0

    def pack(self) -> bytes:
        """Return the record as the guest writes it."""
        return _RECORD.pack(
            *(self.count, self.cpu, self.verdict, self.rx_queue),
            *(self.order, self.to_cpu, self.length),
        )


class HopTable:
    """The records of all frames at one hop, by column.

    Attributes:
        count: column, by frame number; likewise the others (see `Hop`).
    """

    __slots__ = ("count", "cpu", "length", "order", "rx_queue", "to_cpu", "verdict")

    def __init__(self, raw: bytes) -> None:
        """Wrap the values of the guest's array map, laid end to end.

        Raises:
            TraceError: not a whole number of records.
        """
        if len(raw) % _RECORD.size:
            raise TraceError(
                f"a hop table of {len(raw)} bytes is no whole number of {_RECORD.size}-byte records"
            )
        words, halves, octets = array("I", raw), array("H", raw), array("B", raw)
        if sys.byteorder == "big":
            words.byteswap()
            halves.byteswap()
        self.count = words[0::4]
        self.order = words[2::4]
        self.cpu = halves[2::8]
        self.verdict, self.rx_queue = octets[6::16], octets[7::16]
        self.to_cpu = halves[6::8]
        self.length = halves[7::8]

    @classmethod
    def of(cls, hops: Iterable[Hop]) -> HopTable:
        """Build a table from single records."""
        return cls(b"".join(hop.pack() for hop in hops))

    def __len__(self) -> int:
        """Frames that the table has room for."""
        return len(self.count)

    def __getitem__(self, frame: int) -> Hop:
        """Return the record of one frame."""
        return Hop(
            self.count[frame],
            self.cpu[frame],
            self.verdict[frame],
            self.order[frame],
            self.to_cpu[frame],
            self.length[frame],
            self.rx_queue[frame],
        )

    @property
    def total(self) -> int:
        """Frames noted at this hop, repetitions and GRO segments included."""
        return sum(self.count)
