"""The guest's serial console: a file that QEMU writes and pexpect reads.

A file, not a socket: it never pushes back, so no line of a dying kernel is lost while the harness
is busy elsewhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pexpect
import pexpect.spawnbase

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POLL_S = 0.01


class Console(pexpect.spawnbase.SpawnBase):  # type: ignore[misc]
    """A growing console log as a pexpect stream: `expect()` works, reading only.

    Args:
        path: the log, which QEMU has created.
        alive: tells whether QEMU still runs; when it does not, the log's end is EOF.
    """

    def __init__(self, path: Path, alive: Callable[[], bool]) -> None:
        super().__init__(timeout=None, encoding="utf-8", codec_errors="replace")
        self.path = path
        self._alive = alive
        self._file = path.open("rb")
        self._asked: int | None = None

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> str:
        """Return what the guest printed next (pexpect's reading primitive).

        Raises:
            pexpect.TIMEOUT: nothing came within `timeout` seconds.
            pexpect.EOF: QEMU has ended and all is read.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            alive = self._alive()
            data = self._file.read(max(size, 4096))
            if data:
                text: str = self._decoder.decode(data, final=False)
                return text
            if not alive:
                raise pexpect.EOF("QEMU has ended")
            if deadline is not None and time.monotonic() >= deadline:
                raise pexpect.TIMEOUT("the console is silent")
            time.sleep(POLL_S)

    def text(self) -> str:
        """Return all that the console has printed since QEMU started."""
        return self.path.read_bytes().decode("utf-8", "replace").replace("\r", "")

    def ask(self) -> int:
        """Note that the kernel is asked for what comes from here on; return where that is."""
        here = len(self.text())
        self._asked = here if self._asked is None else self._asked
        return here

    def tail(self, lines: int = 25) -> str:
        """Return the last lines of what the console printed without being asked."""
        return "\n".join(self.text()[: self._asked].rstrip().split("\n")[-lines:])

    def close(self) -> None:
        """Close the log; the file stays."""
        self._file.close()
