"""Whose turn it is when: the order of several flows' frames, and the time of each."""

from __future__ import annotations

import heapq
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Pace:
    """How a flow is sent.

    Attributes:
        frames: how many there are.
        rate: frames per second; None: as fast as they are taken.
        burst: frames that go back to back.
        due_s: instead of a rate, seconds after the first frame at which each goes, never less
            than of the one before.
    """

    frames: int
    rate: float | None = None
    burst: int = 1
    due_s: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Turns:
    """The order of all frames; arrays, for there may be a million.

    Attributes:
        flows: the number of each frame's flow.
        due_s: seconds after the first frame at which each goes; empty without rates.
        rests: how many frames have gone when the next burst waits until all is at rest.
    """

    flows: Sequence[int]
    due_s: Sequence[float] = ()
    rests: tuple[int, ...] = ()


def take_turns(paces: Sequence[Pace], *, rate: float | None = None) -> Turns:
    """Put the frames of several flows in order.

    Args:
        paces: of each flow; all have a rate, or times, or none has.
        rate: of all flows together, if they have none of their own.
    """
    flows = array("I")
    if all(pace.rate or pace.due_s for pace in paces):
        due_s = array("d")
        for due, flow in heapq.merge(*(_due(number, pace) for number, pace in enumerate(paces))):
            flows.append(flow)
            due_s.append(due)
        return Turns(flows, due_s)
    rests: list[int] = []
    left = [pace.frames for pace in paces]
    bursts = any(pace.burst > 1 for pace in paces)
    while any(left):
        for flow, pace in enumerate(paces):
            now = min(left[flow], pace.burst)
            left[flow] -= now
            flows.extend([flow] * now)
        if bursts and any(left):
            rests.append(len(flows))
    due_s = array("d", (n / rate for n in range(len(flows))) if rate else ())
    return Turns(flows, due_s, tuple(rests))


def _due(flow: int, pace: Pace) -> Iterator[tuple[float, int]]:
    rate = pace.rate or 1.0
    for frame in range(pace.frames):
        yield pace.due_s[frame] if pace.due_s else (frame - frame % pace.burst) / rate, flow
