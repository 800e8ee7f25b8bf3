"""The pulse of a connection: a peer that has vanished without a word is given up in bounded time.

A network that is cut, or a machine that stands still, ends no TCP connection: whoever waits for it
waits on, paramiko for ever. So the peer's sshd is asked for an answer again and again, as ssh(1)
does with ServerAliveInterval.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from harness.target.bridge import BEAT_S, GONE

if TYPE_CHECKING:
    import paramiko

SILENT_S = 60.0
"""A peer that does not answer for so long has gone."""


class Pulse:
    """Watches a connection, and closes it when the peer does not answer any more.

    Args:
        transport: the connection.

    Attributes:
        stopped: whether it did.
    """

    def __init__(self, transport: paramiko.Transport) -> None:
        self.stopped = False
        self._transport = transport
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self._transport.is_active():
            limit = threading.Timer(SILENT_S, self._give_up)
            limit.daemon = True
            limit.start()
            try:
                self._transport.global_request("keepalive@openssh.com")  # "unknown" is an answer
            except GONE:
                self._give_up()
            finally:
                limit.cancel()
            self._transport.join(BEAT_S)

    def _give_up(self) -> None:
        if self._transport.is_active():
            self.stopped = True
            self._transport.close()
