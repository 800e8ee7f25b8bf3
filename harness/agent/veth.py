"""A pair of virtual Ethernet devices (veth(4)): what goes into one end comes in by the other."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from harness.agent.netlink import NLA_F_NESTED, RTM_SETLINK, ask, attribute, set_link
from harness.agent.syscalls import Buffer, Syscalls
from harness.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Sequence

RTM_NEWLINK = 16
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO = 1, 3, 4, 18
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
EOPNOTSUPP = 95
AF_PACKET, SOCK_RAW, SOCK_NONBLOCK, ETH_P_ALL = 17, 3, 0o4000, 3
SOL_SOCKET, SO_RCVBUFFORCE = 1, 33
SOL_PACKET, PACKET_VNET_HDR, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING = 263, 15, 20, 23
VIRTIO_NET_HDR_F_NEEDS_CSUM = 1
SIOCGIFINDEX = 0x8933
MMSGHDR, IOVEC, SOCKADDR_LL = 64, 16, 20
"""Bytes of these structs."""
LARGEST = 65536


def peer_name(name: str) -> str:
    """Return the name of the other end."""
    return f"{name}-wire"


RECEIVE_BYTES = 64 << 20
"""Of frames that came in and were not fetched yet."""


def make_veth(calls: Syscalls, name: str, *, mac: str, mtu: int = 1500) -> None:
    """Make a pair, both ends up, without IP addresses (drivers/net/veth.c, veth_newlink).

    Args:
        calls: the agent; the pair is in the network namespace of its thread.
        name: of the end that receives; the other one is `peer_name`.
        mac: of the end that receives.
        mtu: of both.

    Raises:
        GuestError: there is an interface of this name (EEXIST), or the kernel has no veth
            (EOPNOTSUPP).
    """
    up = struct.pack("<BxHiII", 0, 0, 0, IFF_UP, IFF_UP)
    size = attribute(IFLA_MTU, struct.pack("<I", mtu))
    wire = attribute(IFLA_IFNAME, peer_name(name).encode() + b"\0")
    pair = attribute(VETH_INFO_PEER | NLA_F_NESTED, bytes(len(up)) + wire + size)
    info = attribute(IFLA_INFO_KIND, b"veth\0") + attribute(IFLA_INFO_DATA | NLA_F_NESTED, pair)
    asked = (
        attribute(IFLA_IFNAME, name.encode() + b"\0")
        + attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
        + size
        + attribute(IFLA_LINKINFO | NLA_F_NESTED, info)
    )
    answer = ask(calls, RTM_NEWLINK, up + asked, NLM_F_CREATE | NLM_F_EXCL)
    if answer.errno == EOPNOTSUPP:
        raise GuestError(
            "the kernel has no veth", errno=EOPNOTSUPP, remedy="build it with CONFIG_VETH"
        )
    answer.must(f"making the veth pair {name}")
    # not at once: veth_open wants both ends to be there
    ask(calls, RTM_SETLINK, up + wire).must(f"setting {peer_name(name)} up")


def set_aside(calls: Syscalls, name: str, ifindex: int) -> None:
    """Set an interface down and give its name free.

    Raises:
        GuestError: the kernel refuses it.
    """
    down = struct.pack("<BxHiII", 0, 0, ifindex, 0, IFF_UP)
    ask(calls, RTM_SETLINK, down).must(f"setting {name} down")
    other = attribute(IFLA_IFNAME, f"{name}-aside".encode() + b"\0")
    set_link(calls, ifindex, other).must(f"renaming {name}")


class PacketSocket:
    """A packet socket (packet(7)) that sends by an interface of the guest's, past its qdisc.

    Args:
        calls: the agent.
        name: of the interface.

    Attributes:
        ifindex: of the interface.

    Raises:
        GuestError: there is none, or the kernel has no packet sockets.
    """

    def __init__(self, calls: Syscalls, name: str) -> None:
        self._calls = calls
        self._header = b""
        kind = SOCK_RAW | SOCK_NONBLOCK
        self.fd = calls.must("socket", AF_PACKET, kind, 0, why="a packet socket").value
        ifreq = Buffer(struct.pack("<16s24x", name.encode()), returned=True)
        calls.must("ioctl", self.fd, SIOCGIFINDEX, ifreq, why=name)
        self.ifindex = int.from_bytes(ifreq.content[16:20], "little")
        for option in (PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING):
            self._switch_on(option)
        room = struct.pack("<i", RECEIVE_BYTES)
        # for root; in a user namespace (EPERM) it stays as it is, and has room for some fifty
        calls.raw("setsockopt", self.fd, SOL_SOCKET, SO_RCVBUFFORCE, room, len(room))
        where = struct.pack("<H2si", AF_PACKET, ETH_P_ALL.to_bytes(2, "big"), self.ifindex)
        address = where.ljust(SOCKADDR_LL, b"\0")
        calls.must("bind", self.fd, address, len(address))

    def _switch_on(self, option: int) -> None:
        one = struct.pack("<i", 1)
        self._calls.must("setsockopt", self.fd, SOL_PACKET, option, one, len(one))

    def leave_checksum(self, start: int, offset: int) -> None:
        """Send frames from here on as a guest or a socket of this machine does: without checksum.

        Args:
            start: of what it is of, in bytes from the Ethernet header on.
            offset: of the checksum, in bytes from there on.

        Raises:
            GuestError: the kernel refuses it.
        """
        self._switch_on(PACKET_VNET_HDR)
        self._header = struct.pack("<BBHHHH", VIRTIO_NET_HDR_F_NEEDS_CSUM, 0, 0, 0, start, offset)

    def send(self, calls: Syscalls, frames: Sequence[bytes]) -> int:
        """Send some frames by one sendmmsg(2) and return how many the interface took.

        Args:
            calls: the agent's thread that sends them: its CPU is their producer.
            frames: from the Ethernet header on.

        Raises:
            GuestError: it took none: ENOBUFS when its ring is full, ENETDOWN, EMSGSIZE.
        """
        iovecs = MMSGHDR * len(frames)
        at = iovecs + IOVEC * len(frames)
        heads, vectors, own = bytearray(), bytearray(), dict[int, int]()
        frames = [self._header + frame for frame in frames]
        for number, frame in enumerate(frames):
            own[MMSGHDR * number + 16] = iovecs + IOVEC * number
            own[iovecs + IOVEC * number] = at
            heads += struct.pack("<24xQ32x", 1)
            vectors += struct.pack("<8xQ", len(frame))
            at += len(frame)
        messages = Buffer(b"".join((heads, vectors, *frames)), own=own)
        return calls.must("sendmmsg", self.fd, messages, len(frames), 0).value

    def receive(self) -> bytes | None:
        """Return the next frame that came in by the interface; None if there is none now."""
        frame = Buffer(LARGEST, returned=True)
        size = self._calls.raw("recvfrom", self.fd, frame, LARGEST, 0, 0, 0).value
        return frame.content[:size] if size >= 0 else None

    def close(self) -> None:
        """Close it.

        Raises:
            GuestError: it was closed before.
        """
        self._calls.must("close", self.fd)
