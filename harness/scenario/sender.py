"""Frames of a run that go at their time: on a thread of their own, or between other calls."""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harness.traffic.frames import Frames, Reel
    from harness.traffic.turns import Turns

POLL_S = 0.002


class _Sender:
    """Sends all frames of a run in their order and at their time; a context manager.

    Frames are due by the monotonic clock, counted from the beginning. One that is late goes at
    once, and how late it was is taken down.

    Args:
        inject: sends some frames.
        frames: all of them.
        turns: their order and times.
        stops: how many frames have gone when it must be let on to send more.

    Attributes:
        sent: frames that have gone so far.
        late_s: of each frame with a time, by how much it went after that.
    """

    CHUNK = 256
    """Frames that go together at most."""

    def __init__(
        self, inject: Callable[[Frames], object], frames: Reel, turns: Turns, stops: Iterable[int]
    ) -> None:
        self._inject = inject
        self._frames = frames
        self._due_s = turns.due_s
        self._stops = sorted(stops)
        self.sent = 0
        self.late_s = array("f")

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        return self

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._start

    def _ahead_s(self) -> float:
        """Return how long it is until the next frame is due; 0 or less if it is."""
        return self._due_s[self.sent] - self.elapsed_s if self._due_s else 0.0

    def _send_chunk(self, stop: int) -> None:
        """Send the next frame, and those with it that are due and before a stop."""
        end = min(self.sent + self.CHUNK, stop)
        if self._due_s:
            now = self.elapsed_s
            end = max(self.sent + 1, min(end, bisect_right(self._due_s, now)))
            self.late_s.extend(now - due for due in self._due_s[self.sent : end])
        self._inject(self._frames.take(end))
        self.sent = end


class ThreadSender(_Sender):
    """Sends on a thread of its own, while somebody else acts on the guest."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._let = threading.Semaphore(0)
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._under_way = self._pool.submit(self._send)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._let.release(len(self._stops) + 1)
        self._pool.shutdown()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._under_way.done()

    def let_on(self) -> None:
        """Let it go on from a stop."""
        self._let.release()

    def check(self) -> None:
        """Raise what ended it, if that was an error.

        Raises:
            TrafficError: the guest stopped taking frames.
        """
        if self._under_way.done():
            self._under_way.result()

    def go_on(self) -> None:
        """Give it a moment."""
        time.sleep(POLL_S)

    def _send(self) -> None:
        for stop in self._stops:
            self._send_part(stop)
            self._let.acquire()
        self._send_part(len(self._frames))

    def _send_part(self, stop: int) -> None:
        while self.sent < stop:
            if self._ended.wait(max(self._ahead_s(), 0)):
                return
            self._send_chunk(stop)


class TurnSender(_Sender):
    """Sends between other calls of the agent, which a link takes from one thread only."""

    CHUNK = 4096

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def done(self) -> bool:
        """Whether all has gone."""
        return self.sent == len(self._frames)

    def let_on(self) -> None:
        """Let it go on from a stop."""
        del self._stops[0]

    def check(self) -> None:
        """Errors come out of `go_on`."""

    def go_on(self) -> None:
        """Send what is due, or wait for it a moment.

        Raises:
            TrafficError: the guest stopped taking frames.
            GuestError: it refuses them.
        """
        stop = self._stops[0] if self._stops else len(self._frames)
        if self.sent == stop:
            time.sleep(POLL_S)
        elif (ahead_s := self._ahead_s()) > 0:
            time.sleep(min(ahead_s, POLL_S))
        else:
            self._send_chunk(stop)
