"""The `socket` injector: QEMU's dgram back-end, one datagram a frame, lossless and without root.

Each end of the socket pair names the other as its peer, so that the kernel bounds what is under way
by the sender's buffer instead of net.unix.max_dgram_qlen (unix_dgram_sendmsg), and a full guest
pushes back: send(2) blocks. What send(2) took is in QEMU's queue, and QEMU gives it to the device
before it reads on.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from harness.errors import TrafficError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BURST = 256
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
        """Send all frames in order and return how many: each one QEMU has accepted whole.

        Args:
            frames: from the Ethernet header on, without FCS.
            rate: frames per second at most; None is as fast as the guest takes them.
            progress: called now and then with the number sent so far.

        Raises:
            TrafficError: the guest took nothing for `stall_s` seconds, or QEMU has gone.
        """
        send = self._sock.send
        sent, start = 0, time.monotonic()
        try:
            for frame in frames:
                if send(frame) != len(frame):
                    raise TrafficError(f"frame {sent} was cut short on its way into QEMU")
                sent += 1
                if rate is not None:
                    ahead = start + sent / rate - time.monotonic()
                    if ahead > 0:
                        time.sleep(ahead)
                if progress is not None and sent % BURST == 0:
                    progress(sent)
        except BlockingIOError as error:
            raise TrafficError(
                f"the guest took {sent} of {len(frames)} frames and then none for "
                f"{self._stall_s:.0f} s",
                remedy="see its console: is the interface up, and the guest alive?",
            ) from error
        except OSError as error:
            raise TrafficError(
                f"QEMU went away after {sent} of {len(frames)} frames: {error}"
            ) from error
        return sent

    def receive(self, frames: int, *, deadline_s: float) -> list[bytes]:
        """Return the next frames that the guest sends out; fewer if the deadline comes first."""
        got: list[bytes] = []
        deadline = time.monotonic() + deadline_s
        while len(got) < frames and (left := deadline - time.monotonic()) > 0:
            if select.select([self._sock], [], [], left)[0]:
                got.append(self._sock.recv(65536))
        return got
