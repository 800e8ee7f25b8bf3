"""Who hears it when a guest ends itself: QEMU tells that on a monitor of its own.

QEMU then stops the guest and keeps it (`-action shutdown=pause`), so that nobody who waits for it
would notice. Source: qapi/run-state.json of QEMU, SHUTDOWN.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ASK = b'{"execute": "qmp_capabilities"}\n{"execute": "query-status"}\n'
ENDS = {
    "guest-reset": "the guest has restarted by itself",
    "guest-shutdown": "the guest has switched itself off",
}
"""QEMU's reasons, in words; a triple fault is a restart, too."""
PANICKED = "the guest has panicked"
ENDED = "the guest has ended by itself"


class Watcher:
    """A thread that listens to a QEMU's monitor until the guest has ended.

    Args:
        sock: connected to the monitor; owned by the watcher from here on.
        tell: called, in the thread, with how the guest has ended; once at most.
    """

    def __init__(self, sock: socket.socket, tell: Callable[[str], None]) -> None:
        self._sock = sock
        self._tell = tell
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up, and see the thread end."""
        with contextlib.suppress(OSError):  # QEMU has done so already
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()

    def _watch(self) -> None:
        with contextlib.suppress(OSError), self._sock.makefile("rwb", buffering=0) as stream:
            stream.write(ASK)
            for line in stream:
                if how := hear_end(line):
                    self._tell(how)
                    return


def hear_end(line: bytes) -> str:
    """Return how the guest has ended, if that is what QEMU says; "" if it is anything else."""
    try:
        message = json.loads(line)
    except ValueError:  # cut off: QEMU has died
        return ""
    if message.get("event") == "SHUTDOWN" and message["data"]["guest"]:
        return ENDS.get(message["data"]["reason"], ENDED)
    # it was quicker than this thread
    return ENDED if message.get("return", {}).get("status") == "shutdown" else ""
