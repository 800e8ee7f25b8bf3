"""Tells on standard error what takes long: one line that is renewed, or one line per phase."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType

PATIENCE_S = 2.0
"""What is over sooner is not told."""
REDRAW_S = 0.5
WIPE = "\r\x1b[K"


class Phases:
    """What goes on, told after two seconds; nothing is left on a terminal when it is over.

    Args:
        stream: where to tell.
        patience_s: seconds that a phase takes before it is told.
    """

    def __init__(self, stream: TextIO, *, patience_s: float = PATIENCE_S) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._patience_s = patience_s
        self._what = ""
        self._since = 0.0
        self._amount = (0, 0)
        self._told = False
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
        self._over.set()
        self._thread.join()

    def begin(self, what: str) -> None:
        """Begin a phase; the one before is over."""
        self.end()
        with self._lock:
            self._what, self._since = what, time.monotonic()

    def advance(self, done: int, total: int) -> None:
        """Note how much of the phase is done, and of how much."""
        self._amount = (done, total)

    def fetch(self, what: str, done: int, total: int) -> None:
        """Note how a download or a build gets on (a `harness.apt.Progress`)."""
        if self._what != (phase := f"fetching {what}" if total else what):
            self.begin(phase)
        self.advance(done, total)

    def tell(self, what: str) -> None:
        """Tell something that stays; the phase is over."""
        self.end()
        with self._lock:
            self._write(f"{what}\n")

    def end(self) -> None:
        """End the phase: until the next one, the stream is left alone."""
        with self._lock:
            if self._told and self._live:
                self._write(WIPE)
            self._what, self._told, self._amount = "", False, (0, 0)

    def _watch(self) -> None:
        while not self._over.wait(min(REDRAW_S, self._patience_s / 2)):
            with self._lock:
                age = time.monotonic() - self._since
                if not self._what or age < self._patience_s:
                    continue
                if self._live:
                    self._write(f"{WIPE}{self._what}{self._share()}, {age:.0f} s")
                elif not self._told:
                    self._write(f"{self._what}\n")
                self._told = True

    def _share(self) -> str:
        done, total = self._amount
        return f", {100 * done // total} %" if total else ""

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads it: the run goes on
            self._over.set()
