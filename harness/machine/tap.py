"""A tap behind a NIC, in a user and network namespace of its own (user_namespaces(7), no root).

It is gone when its last descriptor is.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import ToolMissing
from harness.machine import tap_room

MAKE_S = 60.0


@dataclass(frozen=True, slots=True)
class Tap:
    """The harness's ends of a tap.

    Attributes:
        packet: sends into it, and receives what the guest sends.
        counters: descriptor of /proc/net/dev in its namespace.
        hung_up: set when nobody will read it any more.
    """

    packet: socket.socket
    counters: int
    hung_up: threading.Event = field(default_factory=threading.Event)

    def count(self) -> int | None:
        """Return how many frames QEMU has read from it.

        None when it has gone, with the last of its queues' descriptors, or is read no more.
        """
        if self.hung_up.is_set():
            return None
        text = os.pread(self.counters, 1 << 16, 0).decode()
        _, there, numbers = text.partition(f"{tap_room.NAME}:")
        if not there:
            return None
        return int(numbers.split()[9])

    def close(self) -> None:
        """Let go of it."""
        self.packet.close()
        os.close(self.counters)


def make_tap(queues: int) -> tuple[Tap, tuple[int, ...]]:
    """Make a tap in namespaces of its own and return it, and its queues' descriptors for QEMU.

    Raises:
        ToolMissing: this machine gives its users no namespaces, or no /dev/net/tun.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        room = ["unshare", "--user", "--map-root-user", "--net"]
        program = [sys.executable, "-I", str(Path(tap_room.__file__)), str(number), str(queues)]
        try:
            made = subprocess.run(
                [*room, *program],
                pass_fds=[number],
                capture_output=True,
                text=True,
                timeout=MAKE_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise ToolMissing("unshare is not here", remedy="install util-linux") from error
        if made.returncode:
            raise ToolMissing(
                f"no tap could be made in a network namespace: {made.stderr.strip()}",
                remedy="it takes user namespaces (sysctl user.max_user_namespaces above 0, "
                "kernel.unprivileged_userns_clone=1 or "
                "kernel.apparmor_restrict_unprivileged_userns=0) and /dev/net/tun to be readable "
                "and writable; without them leave `queues` out",
            )
        _, (packet, counters, *tap), _, _ = socket.recv_fds(ours, 16, 2 + queues)
    return Tap(socket.socket(fileno=packet), counters), tuple(tap)
