"""A UDP socket in the guest, and how often each numbered frame reached it."""

from __future__ import annotations

import re
import struct
from array import array
from typing import TYPE_CHECKING

from harness.trace.evidence import SocketCounts

if TYPE_CHECKING:
    from harness.agent.syscalls import Syscalls

AF_INET, SOCK_DGRAM, SOL_SOCKET, SO_RCVBUFFORCE = 2, 2, 1, 33
RECEIVE_BYTES = 128 << 20
PORT = 4242


class Sink:
    """Counts the datagrams that a bound socket receives, until it is stopped.

    Args:
        calls: the agent.
        frames: how many numbered frames the run may have.

    Attributes:
        port: the UDP port.

    Raises:
        GuestError: the port is taken, or another sink runs.
    """

    def __init__(self, calls: Syscalls, *, frames: int) -> None:
        self.port = PORT
        self._calls = calls
        self._fd = bind_udp(calls, PORT)
        size = struct.pack("<I", RECEIVE_BYTES)
        calls.must("setsockopt", self._fd, SOL_SOCKET, SO_RCVBUFFORCE, size, len(size))
        self._drops = self._buffer_errors()
        calls.link.call("sink_start", self._fd, frames)

    def accounted(self) -> int:
        """Return the datagrams that the socket has received or refused so far."""
        received: int = self._calls.link.call("sink_count")
        return received + self._buffer_errors() - self._drops

    def stop(self) -> tuple[SocketCounts, array[int]]:
        """Read the socket empty and return what it received, and the CRC-32 of each payload.

        Raises:
            GuestError: it was stopped before.
        """
        counts, sums = self._calls.link.call("sink_stop")
        drops = self._buffer_errors() - self._drops
        self._calls.must("close", self._fd)
        return SocketCounts(counts, drops), array("I", sums)

    def _buffer_errors(self) -> int:
        """Return the datagrams that found a socket full."""
        return udp_counters(self._calls)["RcvbufErrors"]


def bind_udp(calls: Syscalls, port: int) -> int:
    """Return the descriptor of a UDP socket on a port of all of the guest's addresses.

    Raises:
        GuestError: the port is taken.
    """
    fd = calls.must("socket", AF_INET, SOCK_DGRAM, 0).value
    address = struct.pack("<H", AF_INET) + struct.pack(">H", port) + bytes(12)
    calls.must("bind", fd, address, len(address))
    return fd


def unread_bytes(calls: Syscalls, port: int) -> int:
    """Return the memory of what the UDP sockets on a port were not asked for yet, in bytes.

    That is the sum of the skbs' truesize (/proc/net/udp, udp4_format_sock).
    """
    text: bytes = calls.link.call("read", "/proc/net/udp", 1 << 16)
    rows = [line.split() for line in text.decode().splitlines()[1:]]
    return sum(int(row[4][9:], 16) for row in rows if row[1].endswith(f":{port:04X}"))


def udp_counters(calls: Syscalls) -> dict[str, int]:
    """Return the UDP counters of /proc/net/snmp by name, in datagrams."""
    text: bytes = calls.link.call("read", "/proc/net/snmp", 1 << 16)
    names, values = re.findall(r"^Udp: (.*)$", text.decode(), re.MULTILINE)
    return dict(zip(names.split(), map(int, values.split()), strict=True))
