"""Flows, and the numbered frames made of them.

scapy builds one frame per flow; each frame of the run is that template with its tag
(guest/frame.h: magic, flow, running number) at the start of the payload and the L4 checksum mended,
so that a hundred thousand frames cost a fraction of a second.
"""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from harness.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TAG = struct.Struct("<HHI")
TAG_MAGIC = 0xC9A7
MIN_BYTES, MAX_BYTES = 60, 1514
"""Of a frame on an Ethernet with its usual MTU."""
JUMBO_BYTES = 16384
"""More than this no case sends."""
PEER_MAC = "52:54:00:63:70:f0"
CHECKSUMS = ("right", "wrong", "none")


@dataclass(frozen=True, slots=True)
class Flow:
    """A stream of equal frames.

    Attributes:
        frames: how many.
        protocol: "udp" or "tcp".
        source, destination: IPv4 addresses.
        source_port, destination_port: L4 ports.
        size: bytes of a frame from the Ethernet header on, without FCS; virtual wires carry less
            than 60, and more than 1514 where the MTU has been raised.
        vlan: VLAN id of an 802.1Q tag, or None. A frame of VLAN 0 has a priority and no VLAN: the
            stack takes it as if it had no tag.
        mac: destination MAC address.
        checksum: of L4: "right", "wrong" or (UDP) "none".
    """

    frames: int
    source: str
    destination: str
    mac: str
    protocol: str = "udp"
    source_port: int = 40000
    destination_port: int = 9
    size: int = 64
    vlan: int | None = None
    checksum: str = "right"

    def __post_init__(self) -> None:
        if self.frames < 0:
            raise UserError(f"a flow of {self.frames} frames: it takes 0 or more")
        if self.protocol not in ("udp", "tcp"):
            raise UserError(f"unknown protocol {self.protocol!r}: udp or tcp")
        if self.size > JUMBO_BYTES:
            raise UserError(f"frames of {self.size} bytes: {JUMBO_BYTES} at most")
        if self.vlan is not None and not 0 <= self.vlan <= 4094:
            raise UserError(f"VLAN {self.vlan}: ids go from 0 to 4094")
        if self.size < (least := self.headers + TAG.size):
            raise UserError(f"{self.protocol} frames of {self.size} bytes have no room: {least}")
        if self.checksum not in CHECKSUMS or (self.protocol, self.checksum) == ("tcp", "none"):
            raise UserError(f"no {self.protocol} frame has the checksum {self.checksum!r}")

    def mould(self, number: int) -> Mould:
        """Return what makes its frames; `number` is its own."""
        return _Mould(self, number)

    @property
    def headers(self) -> int:
        """Bytes in front of the payload."""
        return 14 + (0 if self.vlan is None else 4) + 20 + (8 if self.protocol == "udp" else 20)


class Mould(Protocol):
    """Makes the frames of a flow, one after the other."""

    def cast(self, number: int) -> bytes:
        """Return the next frame, with this running number."""


class Source(Protocol):
    """What frames are made of: a flow, or a capture."""

    @property
    def frames(self) -> int:
        """How many."""

    @property
    def headers(self) -> int:
        """Bytes in front of the payload."""

    def mould(self, number: int) -> Mould:
        """Return what makes its frames; `number` is its own."""


@dataclass(frozen=True)
class Frames:
    """The frames of one run, in the order in which they are sent.

    Attributes:
        data: each frame's bytes.
        flows: the number of each frame's flow.
        headers: bytes in front of the payload, by flow.
    """

    data: tuple[bytes, ...]
    flows: tuple[int, ...]
    headers: tuple[int, ...]

    def payload_sums(self) -> Iterator[int]:
        """Yield the CRC-32 of each frame's payload."""
        for frame, flow in zip(self.data, self.flows, strict=True):
            yield zlib.crc32(memoryview(frame)[self.headers[flow] :])

    def __len__(self) -> int:
        return len(self.data)


class Reel:
    """The frames of a run that are made when their turn comes, so that few are there at a time.

    Args:
        sources: what they are made of.
        order: the number of each frame's source.
    """

    def __init__(self, sources: Sequence[Source], order: Sequence[int]) -> None:
        self._moulds = [source.mould(number) for number, source in enumerate(sources)]
        self._headers = tuple(source.headers for source in sources)
        self._order = order
        self._next = 0

    def __len__(self) -> int:
        return len(self._order)

    def take(self, end: int) -> Frames:
        """Return those from where the last part ended and before a place.

        Raises:
            UserError: a capture is not any more what it was.
        """
        start, self._next = self._next, end
        flows = tuple(self._order[start:end])
        data = (self._moulds[flow].cast(number) for number, flow in enumerate(flows, start))
        return Frames(tuple(data), flows, self._headers)


def build_frames(
    flows: Sequence[Source], *, first: int = 0, order: Sequence[int] | None = None
) -> Frames:
    """Return the numbered frames of some flows.

    Args:
        flows: each with its number of frames.
        first: the running number to begin with.
        order: the number of each frame's flow; they take turns one by one without it.
    """
    if order is None:
        order = list(_interleave([flow.frames for flow in flows]))
    moulds = [flow.mould(number) for number, flow in enumerate(flows)]
    data = [moulds[flow].cast(number) for number, flow in enumerate(order, first)]
    return Frames(tuple(data), tuple(order), tuple(flow.headers for flow in flows))


def build_live(flow: Flow, number: int, *, first: int) -> Frames:
    """Return the frames of a live run, which repeats the first of them.

    The guest numbers its copies itself (guest/bpf/steer.bpf.c), and mends the checksum.

    Args:
        flow: of UDP without a VLAN tag, which the stack would take out of the page's data for good.
        number: of the flow.
        first: running number of its first frame.
    """
    if flow.protocol != "udp" or flow.vlan is not None:
        raise UserError("live frames are of UDP, and have no VLAN tag")
    mould = _Mould(flow, number)
    data = [mould.cast(frame) for frame in range(first, first + flow.frames)]
    return Frames(tuple(data), (number,) * flow.frames, (flow.headers,) * (number + 1))


def _interleave(counts: Sequence[int]) -> Iterator[int]:
    left = list(counts)
    while any(left):
        for flow, count in enumerate(left):
            if count:
                left[flow] -= 1
                yield flow


class _Mould:
    """A flow's frame with holes for the running number and, of TCP, the sequence number."""

    def __init__(self, flow: Flow, number: int) -> None:
        frame = _template(flow)
        at = flow.headers
        self._payload = flow.size - at
        self._next = 1
        self._head = frame[: at - 16] if flow.protocol == "tcp" else frame[: at - 2]
        self._middle = frame[at - 12 : at - 4] if flow.protocol == "tcp" else None
        self._flow = TAG.pack(TAG_MAGIC, number, 0)[:4]
        self._tail = frame[at + TAG.size :]
        # scapy has summed zeros in the holes: take out its complement, add what goes there
        # (RFC 1624)
        self._checksum = flow.checksum
        check_at = at - (2 if flow.protocol == "udp" else 4)
        check = int.from_bytes(frame[check_at : check_at + 2], "big")
        self._sum = (check ^ 0xFFFF) + _words(self._flow)

    def cast(self, number: int) -> bytes:
        """Return the flow's next frame, with this running number."""
        tag = number.to_bytes(4, "little")
        if self._middle is None:
            return b"".join((self._head, self._check(tag), self._flow, tag, self._tail))
        sequence = (self._next & 0xFFFFFFFF).to_bytes(4, "big")
        self._next += self._payload
        check = self._check(tag + sequence)
        urgent = b"\0\0"
        parts = (self._head, sequence, self._middle, check, urgent, self._flow, tag, self._tail)
        return b"".join(parts)

    def _check(self, holes: bytes) -> bytes:
        total = self._sum + _words(holes)
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        # 0 would mean "none" in UDP; TCP takes either
        check = (total ^ 0xFFFF) or 0xFFFF
        if self._checksum != "right":
            check = (check ^ 1 or 3) if self._checksum == "wrong" else 0
        return check.to_bytes(2, "big")


def _words(data: bytes) -> int:
    """Return the sum of the 16-bit big-endian words."""
    return sum(struct.unpack(f">{len(data) // 2}H", data))


@lru_cache(maxsize=256)
def _template(flow: Flow) -> bytes:
    # scapy takes half a second to import: only who builds frames pays for it
    from scapy.layers.inet import IP, TCP, UDP  # noqa: PLC0415
    from scapy.layers.l2 import Dot1Q, Ether  # noqa: PLC0415

    packet = Ether(dst=flow.mac, src=PEER_MAC)
    if flow.vlan is not None:
        packet /= Dot1Q(vlan=flow.vlan)
    packet /= IP(src=flow.source, dst=flow.destination, id=0, flags="DF")
    packet /= UDP() if flow.protocol == "udp" else TCP(flags="A", seq=0, ack=1)
    packet.sport, packet.dport = flow.source_port, flow.destination_port
    # no two places alike: a frame that is put together wrongly has another sum
    filling = random.Random(flow.size).randbytes(flow.size - flow.headers - TAG.size)
    return bytes(packet / (bytes(TAG.size) + filling))
