"""The `veth` injector: frames go in inside the guest, by the other end of a veth pair.

They are the bytes that a wire would carry, on any kernel from 5.10 on, and their producer is the
CPU of one's choice: veth's NAPI poll runs where the frame was sent (drivers/net/veth.c, veth_xmit).
A poll that falls behind has a ring of 256 frames (VETH_RING_SIZE), which drops when it is full: no
more are under way than `WINDOW`, for the XDP program counts those that it has seen.
"""

from __future__ import annotations

import errno
import time
from operator import itemgetter
from typing import TYPE_CHECKING

from harness.agent.live import TASKS
from harness.agent.syscalls import Syscalls
from harness.errors import GuestError, TrafficError
from harness.traffic.wire import stalled, wait_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.agent.veth import PacketSocket

WINDOW = 64
POLL_S = 0.001
TASK = TASKS
"""The agent's thread that sends: its own, for live runs may be under way at the same time."""

mac_of = itemgetter(slice(6))
"""The address that a frame is for."""


def in_turns(frames: Sequence[bytes]) -> list[bytes]:
    """Return frames for several pairs in an order in which a pair has many at each of its turns.

    A turn takes several calls of the agent. Frames for one pair stay in order.
    """
    spans = range(0, len(frames), WINDOW)
    return [f for at in spans for f in sorted(frames[at : at + WINDOW], key=mac_of)]


class VethInjector:
    """Sends frames into one end of a veth pair, and waits until they have come in by the other.

    It makes calls of the agent: it belongs into the thread that makes all others.

    Args:
        calls: the agent.
        socket: on the end that sends.
        taken: counts the frames that have come in by the other end so far.
        stall_s: how long it may take none before that is an error.

    Attributes:
        cpu: where the frames are sent, and so received.
    """

    def __init__(
        self, calls: Syscalls, socket: PacketSocket, taken: Callable[[], int], *, stall_s: float
    ) -> None:
        self._calls = Syscalls(calls.link, task=TASK)
        self._socket = socket
        self._taken = taken
        self._stall_s = stall_s
        self.cpu = 0

    def send(
        self,
        frames: Sequence[bytes],
        *,
        rate: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Send all frames in order; see `Injector`."""
        mask = (1 << self.cpu).to_bytes(16, "little")
        self._calls.must("sched_setaffinity", 0, len(mask), mask, why=f"CPU {self.cpu}")
        before, start, sent = self._taken(), time.monotonic(), 0
        while sent < len(frames):
            wait_turn(start, sent, rate)
            sent += self._put(frames[sent : sent + (WINDOW if rate is None else 1)], sent)
            self._wait(before, sent, len(frames))
            if progress is not None:
                progress(sent)
        return sent

    def _put(self, frames: Sequence[bytes], sent: int) -> int:
        try:
            return self._socket.send(self._calls, frames)
        except GuestError as error:
            name = errno.errorcode.get(error.errno, str(error.errno))
            raise TrafficError(f"the veth pair refused frame {sent} ({name})") from error

    def _wait(self, before: int, sent: int, frames: int) -> None:
        """Wait until so many frames have come in."""
        since, last = time.monotonic(), -1
        while (now := self._taken() - before) < sent:
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since >= self._stall_s:
                raise stalled(now, frames, self._stall_s)
            time.sleep(POLL_S)

    def receive(self, frames: int, *, deadline_s: float) -> list[bytes]:
        """Return the next frames that the guest sends out; see `Injector`."""
        got: list[bytes] = []
        deadline = time.monotonic() + deadline_s
        while len(got) < frames and time.monotonic() < deadline:
            frame = self._socket.receive()
            if frame is None:
                time.sleep(POLL_S)
            else:
                got.append(frame)
        return got
