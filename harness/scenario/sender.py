"""Frames that go in on a thread of their own, while somebody else acts on the guest."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from harness.traffic.frames import Frames
    from harness.traffic.turns import Turns

CHUNK = 256


class Sender:
    """Sends all frames of a run in their order and at their time; a context manager.

    Args:
        inject: sends some frames.
        frames: all of them.
        turns: their order and times.
        stops: how many frames have gone when it must be let on to send more.

    Attributes:
        sent: frames that have gone so far.
    """

    def __init__(
        self, inject: Callable[[Frames], object], frames: Frames, turns: Turns, stops: Iterable[int]
    ) -> None:
        self._inject = inject
        self._frames = frames
        self._due_s = turns.due_s
        self._stops = sorted(stops)
        self._let = threading.Semaphore(0)
        self._ended = False
        self.sent = 0
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._under_way = self._pool.submit(self._send)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._let.release(len(self._stops) + 1)
        self._pool.shutdown()

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._start

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

    def _send(self) -> None:
        start = 0
        for stop in self._stops:
            start = self._send_part(start, stop)
            self._let.acquire()
        self._send_part(start, len(self._frames))

    def _send_part(self, start: int, stop: int) -> int:
        while start < stop and not self._ended:
            end = self._end_of_chunk(start, stop)
            self._inject(self._frames.part(start, end))
            start = self.sent = end
        return start

    def _end_of_chunk(self, start: int, stop: int) -> int:
        """Return where the frames end that go now; wait for the first one's time."""
        most = min(start + CHUNK, stop)
        if not self._due_s:
            return most
        ahead = self._start + self._due_s[start] - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        now = time.monotonic() - self._start
        return max(start + 1, min(most, bisect_right(self._due_s, now)))
