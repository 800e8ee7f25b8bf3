"""Frames of a capture, made accountable: each gets the run's number into its payload.

A frame that cannot carry a number cannot be followed, so it is left out and counted: what is no
Ethernet/IPv4/IPv6/UDP/TCP, fragments, IP options and extension headers, payloads of less than 8
bytes, frames that were cut short, and frames longer than a NIC takes. The others are padded to 60
bytes, the destination address is made the NIC's, the first 8 bytes of the payload the tag
(guest/frame.h), and the L4 checksum is mended; all else, VLAN tags and TCP options among it, stays.

A file is read twice: once to count its frames and to take down their times (8 bytes each), and once
more as they are sent, so that a large one never is in memory.
"""

from __future__ import annotations

import logging
import struct
import zlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.traffic.frames import MAX_BYTES, MIN_BYTES, TAG, TAG_MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ETHERNET = 1
"""LINKTYPE_ETHERNET."""
VLANS = (0x8100, 0x88A8)
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP = 6, 17
LEAST_BYTES = 14 + 20 + 8 + TAG.size
"""Of a frame with a number: Ethernet, IPv4, UDP."""
PCAP_ORDERS = {
    bytes.fromhex(magic): order
    for magic, order in (("d4c3b2a1", "<"), ("4d3cb2a1", "<"), ("a1b2c3d4", ">"), ("a1b23c4d", ">"))
}
"""Byte order by the magic of a pcap file (pcap-savefile(5)), with times in µs and in ns."""
SECTION = bytes.fromhex("0a0d0d0a")
"""What a pcapng file and each of its sections begins with; blocks say their own length."""
PCAP_HEADER, RECORD_HEADER = 24, 16
CHECK_AT = {TCP: 16, UDP: 6}
L4_BYTES = {TCP: 20, UDP: 8}


@dataclass(frozen=True, slots=True)
class Shape:
    """Where a frame has what.

    Attributes:
        ends: offset and length of what tells its flow: addresses and ports.
        check: offset of the L4 checksum.
        payload: offset of the payload.
    """

    ends: tuple[tuple[int, int], ...]
    check: int
    payload: int


@dataclass(frozen=True)
class Capture:
    """The frames of a capture that can be numbered.

    Attributes:
        path: the file.
        mac: the NIC that they go to.
        frames: how many there are, of all loops together.
        kept: how many of one loop.
        left_out: how many could not be numbered, of those that were read in one loop.
        due_s: seconds after the first one at which each goes, if it is played at a speed.
    """

    path: Path
    mac: bytes
    frames: int
    kept: int
    left_out: int
    due_s: Sequence[float]

    headers = 0

    def mould(self, _: int) -> Recast:
        """Return what numbers its frames one after the other."""
        return Recast(self)


class Recast:
    """Numbers the frames of a capture, one after the other, as often as they are looped.

    The file is read as they are asked for, from its beginning after each loop.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._frames = _numberable(capture.path)

    def cast(self, number: int) -> bytes:
        """Return the next frame, with this running number.

        Raises:
            UserError: the file has changed.
        """
        found = next(self._frames, None)
        if found is None:  # the next loop
            self._frames = _numberable(self._capture.path)
            found = next(self._frames, None)
        if found is None:
            raise UserError(f"{self._capture.path} was changed while it was replayed")
        frame, shape = found
        flow = zlib.crc32(b"".join(frame[at : at + size] for at, size in shape.ends)) & 0xFFFF
        tag, at = TAG.pack(TAG_MAGIC, flow, number), shape.payload
        data = bytearray(frame)
        data[:6] = self._capture.mac
        data[at : at + TAG.size] = tag
        (check,) = struct.unpack_from(">H", frame, shape.check)
        if check:  # 0 is none, in UDP
            total = (check ^ 0xFFFF) + _words(tag)
            total += sum(word ^ 0xFFFF for word in struct.unpack_from(">4H", frame, at))
            total = (total & 0xFFFF) + (total >> 16)
            total = (total & 0xFFFF) + (total >> 16)
            struct.pack_into(">H", data, shape.check, (total ^ 0xFFFF) or 0xFFFF)
        return bytes(data)


def read_capture(
    path: Path, *, most: int, mac: bytes, loop: int = 1, speed: float | None = None
) -> Capture:
    """Find the first frames of a pcap or pcapng file that can be numbered.

    Args:
        path: the file; it is read no further than needed.
        most: how many to take.
        mac: the NIC that they go to.
        loop: how often the file is played; the next loop begins as long after the last frame of the
            one before as its frames are apart on the average.
        speed: of its own timing; None has no regard to times. A frame that is older than the one
            before it goes together with that.

    Raises:
        UserError: it is no capture of Ethernet frames, has none that can be numbered, or lacks the
            times that its speed goes by.
    """
    left_out, kept, due_s = 0, 0, array("d")
    first_ns, last_s = None, 0.0
    for _, shape, time_ns in _read(path):
        if shape is None:
            left_out += 1
            continue
        kept += 1
        if speed is not None:
            if time_ns is None:
                raise UserError(
                    f"{path} has frames without a time, such as frame {kept + left_out}",
                    remedy="leave out `speed`, and give `rate` if they are to be paced",
                )
            first_ns = time_ns if first_ns is None else first_ns
            last_s = max(last_s, (time_ns - first_ns) / 1e9 / speed)
            due_s.append(last_s)
        if kept == most:
            break
    else:
        _check_end(path)
    if not kept:
        raise UserError(
            f"none of the {left_out} frames in {path} can be numbered",
            remedy="a frame needs IPv4 or IPv6, UDP or TCP, and 8 bytes of payload",
        )
    frames = min(most, kept * loop)
    if due_s:
        period_s = due_s[-1] * kept / max(kept - 1, 1)
        for number in range(kept, frames):
            due_s.append(due_s[number % kept] + number // kept * period_s)
    return Capture(path, mac, frames, kept, left_out, due_s)


def find_shape(frame: bytes) -> Shape | None:
    """Return where a frame has what, or None if it cannot be numbered (guest/bpf/tag.h)."""
    if not LEAST_BYTES <= len(frame) <= MAX_BYTES:
        return None
    at, (proto,) = 14, struct.unpack_from(">H", frame, 12)
    for _ in range(2):
        if proto in VLANS:
            (proto,) = struct.unpack_from(">H", frame, at + 2)
            at += 4
    if proto == IPV4:
        fragment = struct.unpack_from(">H", frame, at + 6)[0] & 0x3FFF
        if frame[at] != 0x45 or fragment:
            return None
        l4, end = frame[at + 9], at + struct.unpack_from(">H", frame, at + 2)[0]
        addresses, at = (at + 12, 8), at + 20
    elif proto == IPV6 and len(frame) >= at + 40 and frame[at] >> 4 == 6:
        l4, end = frame[at + 6], at + 40 + struct.unpack_from(">H", frame, at + 4)[0]
        addresses, at = (at + 8, 32), at + 40
    else:
        return None
    if l4 not in CHECK_AT or at + L4_BYTES[l4] > len(frame):
        return None
    payload = at + (8 if l4 == UDP else (frame[at + 12] >> 4) * 4)
    if payload < at + L4_BYTES[l4] or payload + TAG.size > min(end, len(frame)):
        return None
    return Shape((addresses, (at, 4)), at + CHECK_AT[l4], payload)


def _numberable(path: Path) -> Iterator[tuple[bytes, Shape]]:
    """Yield the frames of a capture that can be numbered."""
    for frame, shape, _ in _read(path):
        if shape is not None:
            yield frame.ljust(MIN_BYTES, b"\0"), shape


def _read(path: Path) -> Iterator[tuple[bytes, Shape | None, int | None]]:
    """Yield each frame of a capture, where it has what if it is whole, and its time in ns.

    Raises:
        UserError: it cannot be read to its end.
    """
    # scapy takes half a second to import: only who reads captures pays for it
    from scapy.error import Scapy_Exception  # noqa: PLC0415
    from scapy.utils import RawPcapReader  # noqa: PLC0415

    logging.getLogger("scapy").setLevel(logging.ERROR)  # what it warns of is told, or left out
    try:
        with RawPcapReader(str(path)) as reader:
            for frame, meta in reader:
                if _link_type(reader, meta) != ETHERNET:
                    raise UserError(f"{path} is a capture of something else than Ethernet")
                length = getattr(meta, "wirelen", None) or len(frame)
                shape = find_shape(frame) if length == len(frame) else None
                yield frame, shape, _time_ns(reader, meta)
    except (Scapy_Exception, EOFError, struct.error, OSError) as error:
        if not isinstance(error, OSError):
            _check_end(path)
        raise UserError(f"{path} is no capture that can be read: {error}") from None


def _time_ns(reader: Any, meta: Any) -> int | None:
    """Return when a frame was captured; None of a pcapng's simple packet block, which says not."""
    if hasattr(meta, "sec"):
        return int(meta.sec * 10**9 + meta.usec * (1 if reader.nano else 1000))
    if meta.tshigh is None:
        return None
    return int((meta.tshigh << 32 | meta.tslow) * 10**9 // meta.tsresol)


def _check_end(path: Path) -> None:
    """See that a capture ends where one of its records does; who reads it takes any end for one.

    A packed one is not looked at: its packing has an end of its own.

    Raises:
        UserError: it is cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(PCAP_HEADER)
        order = PCAP_ORDERS.get(begin[:4])
        at, frames = (PCAP_HEADER if order else 0), 0
        if order is None and begin[:4] != SECTION:
            return
        while at < size:
            file.seek(at)
            head = file.read(RECORD_HEADER)
            if begin[:4] == SECTION:
                if head[:4] == SECTION:
                    order = "<" if head[8:9] == b"\x4d" else ">"
                length = struct.unpack_from(f"{order}I", head, 4)[0] if len(head) >= 12 else 12
                at += max(length, 12)
                frames += head[:4] != SECTION
            else:
                taken = struct.unpack_from(f"{order}I", head, 8)[0] if len(head) == 16 else 0
                at += RECORD_HEADER + taken
                frames += 1
    if at != size:
        raise UserError(
            f"{path} is cut off: it has {size} bytes, and its record {frames} ends at byte {at}",
            remedy="capture it again, or let its whole records be copied, as `editcap` does",
        )


def _link_type(reader: Any, meta: Any) -> int:
    """Return LINKTYPE of a frame: pcapng has one per interface, pcap one for all."""
    own = getattr(meta, "linktype", None)
    return int(reader.linktype if own is None else own)


def _words(data: bytes) -> int:
    return sum(struct.unpack(f">{len(data) // 2}H", data))
