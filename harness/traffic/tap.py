"""The `tap` injector: a NIC with several queues, each with its own interrupt and producer.

Frames go in by a packet socket (packet(7)) past the qdisc; the tap spreads them over its queues by
their flow's hash (drivers/net/tun.c, tun_automq_select_queue), so that which queue took a flow is
only known afterwards. A full ring refuses frames (ENOBUFS): no more are under way than one ring
holds, and the tap counts those that QEMU has read.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harness.machine.tap_room import RING
from harness.traffic.wire import gone, paced, receive, stalled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.machine.tap import Tap

POLL_S = 0.0005
WINDOW = RING // 2
"""Frames under way at most."""


class TapInjector:
    """Sends frames into the tap of a NIC, and waits until QEMU has read them.

    Args:
        tap: the harness's ends of it.
        stall_s: how long the guest may refuse to take a frame before that is an error.
    """

    def __init__(self, tap: Tap, *, stall_s: float) -> None:
        self._tap = tap
        self._stall_s = stall_s

    def send(
        self,
        frames: Sequence[bytes],
        *,
        rate: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Send all frames in order; see `Injector`."""
        window = _Window(self._tap, len(frames), self._stall_s)
        sent, may_go = 0, WINDOW
        try:
            for frame in paced(frames, rate, progress):
                if sent == may_go:
                    may_go = window.wait(sent - WINDOW // 2) + WINDOW
                self._tap.packet.send(frame)
                sent += 1
        except OSError as error:
            raise gone(sent, len(frames), error) from error
        return window.wait(sent)

    def receive(self, frames: int, *, deadline_s: float) -> list[bytes]:
        """Return the next frames that the guest sends out; see `Injector`."""
        return receive(self._tap.packet, frames, deadline_s)


class _Window:
    """What QEMU has read of some frames on their way."""

    def __init__(self, tap: Tap, frames: int, stall_s: float) -> None:
        self._tap = tap
        self._frames = frames
        self._stall_s = stall_s
        self._read = 0
        self._before = self._count()

    def wait(self, least: int) -> int:
        """Wait until QEMU has read so many of them, and return how many it has.

        Raises:
            TrafficStalled: it has gone, or it read none for too long.
        """
        since = time.monotonic()
        while self._read < least:
            read = self._count() - self._before
            if read != self._read:
                self._read, since = read, time.monotonic()
            elif time.monotonic() - since >= self._stall_s:
                raise stalled(read, self._frames, self._stall_s)
            else:
                time.sleep(POLL_S)
        return self._read

    def _count(self) -> int:
        count = self._tap.count()
        if count is None:
            raise gone(self._read, self._frames, "its tap is not there")
        return count
