"""The `socket` injector: QEMU's dgram back-end, one datagram a frame, lossless and without root.

Each end of the socket pair names the other as its peer, so that the kernel bounds what is under way
by the sender's buffer instead of net.unix.max_dgram_qlen (unix_dgram_sendmsg), and a full guest
pushes back: send(2) blocks. What send(2) took is in QEMU's queue, and QEMU gives it to the device
before it reads on.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from harness.errors import TrafficError
from harness.traffic.wire import gone, paced, receive, stalled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SEND_BUFFER = 4 << 20


class SocketInjector:
    """Sends frames into one NIC of a guest.

    Args:
        sock: the harness's end of the NIC's socket pair.
        stall_s: how long the guest may refuse to take a frame before that is an error.
    """

    def __init__(self, sock: socket.socket, *, stall_s: float) -> None:
        self._sock = sock
        self._stall_s = stall_s
        seconds, fraction = divmod(stall_s, 1)
        sock.setblocking(True)
        sock.setsockopt(
            socket.SOL_SOCKET,
            socket.SO_SNDTIMEO,
            struct.pack("@ll", int(seconds), int(fraction * 1e6)),
        )
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def send(
        self,
        frames: Sequence[bytes],
        *,
        rate: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Send all frames in order; see `Injector`."""
        send, sent = self._sock.send, 0
        try:
            for frame in paced(frames, rate, progress):
                if send(frame) != len(frame):
                    raise TrafficError(f"frame {sent} was cut short on its way into QEMU")
                sent += 1
        except BlockingIOError as error:
            raise stalled(sent, len(frames), self._stall_s) from error
        except OSError as error:
            raise gone(sent, len(frames), error) from error
        return sent

    def receive(self, frames: int, *, deadline_s: float) -> list[bytes]:
        """Return the next frames that the guest sends out; see `Injector`."""
        return receive(self._sock, frames, deadline_s)
