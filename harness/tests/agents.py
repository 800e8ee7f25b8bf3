"""The real agent as an ordinary program, and a man in the middle of its link."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import threading
import zlib
from typing import TYPE_CHECKING, Self

from harness.agent.link import HEADER, MAGIC, Link, take_frame
from harness.paths import built
from harness.tests.fakes import LATE_S

if TYPE_CHECKING:
    from collections.abc import Callable


class Agent:
    """The agent, serving one end of a socket pair until that closes.

    Args:
        wrapper: a command that runs it.

    Attributes:
        sock: the host's end.
        process: the agent.
    """

    def __init__(self, *wrapper: str) -> None:
        self.sock, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [*wrapper, str(built("agent"))], stdin=theirs.fileno(), stdout=theirs.fileno()
        )
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
        self.process.kill()
        self.process.wait()

    def link(self, *, deadline_s: float = LATE_S) -> Link:
        """Return a link to it, which can be closed without ending the stream."""
        return Link(self.sock.dup(), deadline_s=deadline_s)


class Middle:
    """Passes frames between a link and an agent, and may change them on the way.

    Args:
        agent: the far end.
        there: given each frame's body on its way to the agent; returns the bytes to pass on.
        back: the same for the agent's answers.

    Attributes:
        sock: for the link.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        there: Callable[[bytes], bytes] | None = None,
        back: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.sock, self._near = socket.socketpair()
        self._far = agent.sock
        self._ways = (
            (self._near, self._far, there or frame),
            (self._far, self._near, back or frame),
        )
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
        self._thread.join()
        self._near.close()

    def _run(self) -> None:
        input_of = {self._near: bytearray(), self._far: bytearray()}
        while True:
            ready, _, _ = select.select(list(input_of), [], [])
            for source, target, change in self._ways:
                if source not in ready:
                    continue
                data = b""
                with contextlib.suppress(ConnectionResetError):
                    data = source.recv(1 << 20)
                if not data:
                    return
                input_of[source] += data
                while (body := take_frame(input_of[source])) is not None:
                    with contextlib.suppress(BrokenPipeError):
                        target.sendall(change(body))


def frame(body: bytes) -> bytes:
    """Return a frame with this body."""
    return HEADER.pack(MAGIC, len(body), zlib.crc32(body)) + body


def wait_readable(sock: socket.socket) -> None:
    assert select.select([sock], [], [], LATE_S)[0]
