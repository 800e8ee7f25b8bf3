"""Make a tap in a user and network namespace of one's own, and hand its ends over.

A program by itself, for `harness.machine.tap` to run below unshare(1): the namespaces last as long
as somebody holds one of the ends. Needs nothing but the standard library.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys

NAME = "tap0"
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_MULTI_QUEUE, IFF_NO_PI = 0x2, 0x100, 0x1000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFMTU = 0x8913, 0x8914, 0x8922
IFF_UP, IFF_PROMISC = 0x1, 0x100
ETH_P_ALL, SOL_PACKET = 3, 263
PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING = 20, 23
MTU = 65521
"""The largest of a tap (drivers/net/tun.c: 65535 less its header)."""
RING = 500
"""Frames that each queue's ring holds (TUN_READQ_SIZE; only root of the host may change it)."""


def make_tap(queues: int) -> list[int]:
    """Return descriptors: a packet socket on the tap, its counters (/proc/net/dev), its queues.

    Raises:
        OSError: the kernel refuses a step of it.
    """
    try:
        with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as file:
            file.write("1")  # it would send frames of its own
    except FileNotFoundError:
        pass
    tap = [os.open("/dev/net/tun", os.O_RDWR) for _ in range(queues)]
    flags = IFF_TAP | IFF_NO_PI | (IFF_MULTI_QUEUE if queues > 1 else 0)
    for queue in tap:
        fcntl.ioctl(queue, TUNSETIFF, struct.pack("16sH22x", NAME.encode(), flags))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

        def ask(request: int, form: str, value: int) -> None:
            fcntl.ioctl(control, request, struct.pack(f"16s{form}", NAME.encode(), value))

        ask(SIOCSIFMTU, "i20x", MTU)
        ask(SIOCSIFFLAGS, "H22x", IFF_UP | IFF_PROMISC)
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    packet.bind((NAME, 0))
    packet.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    packet.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    return [packet.detach(), os.open("/proc/net/dev", os.O_RDONLY), *tap]


if __name__ == "__main__":
    number, queues = map(int, sys.argv[1:])
    try:
        ends = make_tap(queues)
    except OSError as error:
        sys.exit(f"{error.strerror}: {error.filename}" if error.filename else str(error))
    with socket.socket(fileno=number) as harness:
        socket.send_fds(harness, [b"tap"], ends)
