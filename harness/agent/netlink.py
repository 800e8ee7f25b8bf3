"""rtnetlink in the guest: what is asked of an interface, and the kernel's answer.

Layouts are those of include/uapi/linux/{netlink,rtnetlink,if_link}.h.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from harness.agent.bpf import XDP_MODES
from harness.agent.syscalls import Buffer, Result

if TYPE_CHECKING:
    from harness.agent.bpf import Program
    from harness.agent.syscalls import Syscalls

AF_NETLINK, SOCK_RAW, NETLINK_ROUTE = 16, 3, 0
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_SETLINK = 19
IFLA_NET_NS_FD, IFLA_XDP = 28, 43
IFLA_XDP_FD, IFLA_XDP_FLAGS = 1, 3
NLA_F_NESTED = 1 << 15
ANSWER_BYTES = 4096
DUMP_BYTES = 1 << 16


def attribute(kind: int, payload: bytes) -> bytes:
    """Pack a `struct nlattr` and its payload, padded to 4 bytes."""
    whole = struct.pack("<HH", 4 + len(payload), kind) + payload
    return whole.ljust(-len(whole) % 4 + len(whole), b"\0")


def dump(calls: Syscalls, request: int, body: bytes) -> list[bytes]:
    """Ask rtnetlink for all of a kind (NLM_F_DUMP) and return the payloads of its messages.

    Args:
        calls: where; the network namespace is that of the agent's thread.
        request: RTM_GETLINK and the like.
        body: `struct ifinfomsg` or its like.

    Raises:
        GuestError: the kernel refuses it.
    """
    flags = NLM_F_REQUEST | NLM_F_DUMP
    message = struct.pack("<IHHII", 16 + len(body), request, flags, 1, 0) + body
    fd = calls.must("socket", AF_NETLINK, SOCK_RAW, NETLINK_ROUTE).value
    found: list[bytes] = []
    try:
        calls.must("sendto", fd, message, len(message), 0, 0, 0)
        while True:
            part = Buffer(DUMP_BYTES, returned=True)
            size = calls.must("recvfrom", fd, part, DUMP_BYTES, 0, 0, 0).value
            at = 0
            while at < size:
                length, kind = struct.unpack_from("<IH", part.content, at)
                payload = part.content[at + 16 : at + length]
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    error = -struct.unpack_from("<i", payload)[0]
                    Result(-error, error).must(f"rtnetlink request {request}")
                found.append(payload)
                at += length + -length % 4
    finally:
        calls.must("close", fd)


def ask(calls: Syscalls, request: int, body: bytes, flags: int = 0) -> Result:
    """Make one request of rtnetlink and return what the kernel answers, success or not.

    Args:
        calls: where; the network namespace is that of the agent's thread.
        request: RTM_SETLINK and the like.
        body: its message with all attributes.
        flags: NLM_F_CREATE and the like.

    Raises:
        GuestError: there is no such socket.
    """
    head = struct.pack("<IHHII", 16 + len(body), request, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0)
    fd = calls.must("socket", AF_NETLINK, SOCK_RAW, NETLINK_ROUTE).value
    try:
        calls.must("sendto", fd, head + body, len(head + body), 0, 0, 0)
        answer = Buffer(ANSWER_BYTES, returned=True)
        calls.must("recvfrom", fd, answer, ANSWER_BYTES, 0, 0, 0)
    finally:
        calls.must("close", fd)
    kind, error = struct.unpack_from("<4xH10xi", answer.content)
    if kind != NLMSG_ERROR:
        raise AssertionError(f"rtnetlink acknowledged with a message of type {kind}")
    return Result(error, -error)


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the payloads of `struct nlattr`s that lie end to end, by their kind."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("<HH", data, at)
        if length < 4:
            break
        found[kind & ~NLA_F_NESTED] = data[at + 4 : at + length]
        at += length + -length % 4
    return found


def set_link(calls: Syscalls, ifindex: int, asked: bytes) -> Result:
    """RTM_SETLINK: return what the kernel answers, success or not.

    Args:
        calls: where; the network namespace is that of the agent's thread.
        ifindex: of the interface.
        asked: what `attribute` packed, end to end.

    Raises:
        GuestError: there is no such socket.
    """
    return ask(calls, RTM_SETLINK, struct.pack("<BxHiII", 0, 0, ifindex, 0, 0) + asked)


def set_xdp(calls: Syscalls, ifindex: int, prog: Program | None, mode: str) -> None:
    """Attach a program to an interface, or detach what is attached (None).

    Args:
        calls: the agent.
        ifindex: of the interface.
        prog: an XDP program.
        mode: "native" or "generic".

    Raises:
        GuestError: the kernel refuses it.
    """
    fd = attribute(IFLA_XDP_FD, struct.pack("<i", prog.fd if prog else -1))
    flags = attribute(IFLA_XDP_FLAGS, struct.pack("<I", XDP_MODES[mode]))
    asked = attribute(IFLA_XDP | NLA_F_NESTED, fd + flags)
    set_link(calls, ifindex, asked).must(f"IFLA_XDP in {mode} mode")


def move_to_netns(calls: Syscalls, ifindex: int, netns: int) -> None:
    """Move an interface to the network namespace behind a descriptor.

    Raises:
        GuestError: the kernel refuses it.
    """
    set_link(calls, ifindex, attribute(IFLA_NET_NS_FD, struct.pack("<i", netns))).must(
        "IFLA_NET_NS_FD"
    )
