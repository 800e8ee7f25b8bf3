"""A paramiko channel as a stream socket: what `harness.agent.link` talks to.

A channel can be waited on for reading only (its fileno is a pipe of paramiko's); a socket pair and
a thread each way make it one that can be waited on both ways. A beat is sent when there is nothing
else: whoever at the other end hears nothing for ALONE_S has lost us, and ends.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import TYPE_CHECKING

import paramiko

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 16
BEAT = b"."
"""What means nothing: no part of a frame (harness.agent.link)."""
BEAT_S = 15.0
ALONE_S = 180
"""Longer than we take to give the other end up (harness.target.pulse)."""
GONE = (OSError, EOFError, paramiko.SSHException)


def bridge(channel: paramiko.Channel) -> socket.socket:
    """Return a socket that is connected with a channel; the end of one is the end of the other."""
    ours, theirs = socket.socketpair()

    def go_up() -> None:
        with contextlib.suppress(*GONE):
            while data := _take(theirs):
                channel.sendall(data)
        with contextlib.suppress(*GONE):
            channel.shutdown_write()

    def go_down() -> None:
        with contextlib.suppress(*GONE):
            while data := channel.recv(CHUNK):
                theirs.sendall(data)
        with contextlib.suppress(OSError):
            theirs.shutdown(socket.SHUT_WR)

    up, down = _start(go_up), _start(go_down)

    def end() -> None:
        up.join()
        down.join()
        theirs.close()

    _start(end)
    return ours


def _take(sock: socket.socket) -> bytes:
    """Return what there is to send; b"" at the end."""
    return sock.recv(CHUNK) if select.select([sock], [], [], BEAT_S)[0] else BEAT


def _start(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
