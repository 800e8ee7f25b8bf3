"""The `live` injector: the guest makes the frames itself, on the CPU of one's choice (5.18).

BPF_F_TEST_XDP_LIVE_FRAMES repeats a frame, and the program numbers its copies: frames that differ
in nothing but their number, one after the other, are one run. No NIC is in between, so nothing can
be lost on the way; each batch is flushed at its end, as a NAPI poll is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.agent.live import LiveRun, run_live
from harness.traffic.frames import TAG
from harness.traffic.wire import wait_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.agent.bpf import Map, Program
    from harness.agent.syscalls import Syscalls
    from harness.traffic.wire import Injector

TAG_AT = 14 + 20 + 8
"""Where the tag is in a frame of UDP without VLAN tag; two bytes before it is the checksum."""
BATCH = 64


@dataclass
class LiveInjector:
    """Has the guest make frames; what it sends out comes by the wire all the same.

    It makes calls of the agent: it belongs into the thread that makes all others.

    Attributes:
        calls: the agent.
        program: `live` of guest/bpf/steer.bpf.c.
        numbers: where that finds the next number, by CPU.
        ifindex: of the NIC that the frames come in by.
        wire: of that NIC.
        deadline_s: how long a run may take.
        cpu: where the frames are made.
    """

    calls: Syscalls
    program: Program
    numbers: Map
    ifindex: int
    wire: Injector
    deadline_s: float
    cpu: int = 0

    def send(
        self,
        frames: Sequence[bytes],
        *,
        rate: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Have all frames made, in order; see `Injector`.

        Raises:
            GuestError: the kernel refuses: EINVAL before 5.18.
            TrafficError: fewer were made than asked for.
        """
        start, sent = time.monotonic(), 0
        while sent < len(frames):
            wait_turn(start, sent, rate)
            count = _alike(frames, sent) if rate is None else 1
            first = TAG.unpack_from(frames[sent], TAG_AT)[2]
            run = LiveRun(self.program, frames[sent], first, count, self.ifindex)
            run_live(
                self.calls, self.numbers, {self.cpu: run}, batch=BATCH, deadline_s=self.deadline_s
            )
            sent += count
            if progress is not None:
                progress(sent)
        return sent

    def receive(self, frames: int, *, deadline_s: float) -> list[bytes]:
        """Return the next frames that the guest sends out; see `Injector`."""
        return self.wire.receive(frames, deadline_s=deadline_s)


def _alike(frames: Sequence[bytes], start: int) -> int:
    """Return how many frames from one on differ in nothing but their number, which counts up."""
    model = _but_number(frames[start])
    first = TAG.unpack_from(frames[start], TAG_AT)[2]
    for number in range(start + 1, len(frames)):
        own = TAG.unpack_from(frames[number], TAG_AT)[2]
        if own != first + number - start or _but_number(frames[number]) != model:
            return number - start
    return len(frames) - start


def _but_number(frame: bytes) -> tuple[bytes, bytes, bytes]:
    return frame[: TAG_AT - 2], frame[TAG_AT : TAG_AT + 4], frame[TAG_AT + TAG.size :]
