"""What every injector has to do: send frames at a rate, and receive some until a deadline."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Protocol

from harness.errors import TrafficStalled

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

BURST = 256
"""Frames between two reports of progress."""
LARGEST = 65536


class Injector(Protocol):
    """Sends frames into one NIC of a guest, and receives what that sends."""

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
            TrafficStalled: the guest stopped taking frames, or has gone.
        """

    def receive(self, frames: int, *, deadline_s: float) -> list[bytes]:
        """Return the next frames that the guest sends out; fewer if the deadline comes first."""


def paced(
    frames: Sequence[bytes], rate: float | None, progress: Callable[[int], None] | None
) -> Iterator[bytes]:
    """Yield each frame when its time has come; the next is asked for when it has been sent."""
    start = time.monotonic()
    for sent, frame in enumerate(frames, 1):
        yield frame
        wait_turn(start, sent, rate)
        if progress is not None and sent % BURST == 0:
            progress(sent)


def wait_turn(start: float, sent: int, rate: float | None) -> None:
    """Wait until the frame after those sent is due.

    Args:
        start: when the first one was, by the monotonic clock.
        sent: how many have gone.
        rate: frames per second; None: it is due.
    """
    if rate is not None:
        time.sleep(max(0.0, start + sent / rate - time.monotonic()))


def receive(sock: socket.socket, frames: int, deadline_s: float) -> list[bytes]:
    """Return the next frames from a socket that keeps them apart; fewer at the deadline."""
    got: list[bytes] = []
    deadline = time.monotonic() + deadline_s
    while len(got) < frames and (left := deadline - time.monotonic()) > 0:
        if select.select([sock], [], [], left)[0]:
            if not (frame := sock.recv(LARGEST)):  # hung up
                break
            got.append(frame)
    return got


def gone(sent: int, frames: int, error: object) -> TrafficStalled:
    """Return the error that tells of a guest which is not there any more."""
    return TrafficStalled(f"the guest went away after {sent} of {frames} frames: {error}")


def stalled(sent: int, frames: int, stall_s: float) -> TrafficStalled:
    """Return the error that tells of a guest which takes no more frames."""
    return TrafficStalled(
        f"the guest took {sent} of {frames} frames and then none for {stall_s:.0f} s",
        remedy="see its console: is the interface up, and the guest alive?",
    )
