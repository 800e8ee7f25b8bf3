"""Every frame of a run, sorted into the few kinds of fate that there are.

A million frames fall into some dozens of cells (seen there, steered here, arrived or not), so the
laws are checked on cells, and single frames are looked up only to name them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING, NamedTuple

from harness.trace.books import FRAMES_NAMED
from harness.trace.events import XdpAction

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from harness.trace.evidence import Circumstances, Evidence
    from harness.trace.hops import HopTable


class Cell(NamedTuple):
    """The fate that some frames share.

    Attributes:
        seen: times noted by the XDP program.
        producer: where.
        verdict: what it answered.
        to_cpu: where it steered them.
        arrived: times, or segments, noted at the stack.
        arrival: on which CPU.
        received: times received by the socket.
        live: 1 if a live run made them.
    """

    seen: int
    producer: int
    verdict: int
    to_cpu: int
    arrived: int
    arrival: int
    received: int
    live: int

    @property
    def redirected(self) -> bool:
        """Whether the XDP program redirected them."""
        return self.seen > 0 and self.verdict == XdpAction.REDIRECT

    @property
    def sent_back(self) -> bool:
        """Whether the XDP program sent them out by the device that they came in by."""
        return self.seen > 0 and self.verdict == XdpAction.TX

    @property
    def passed(self) -> bool:
        """Whether the XDP program passed them."""
        return self.seen > 0 and self.verdict == XdpAction.PASS


@dataclass(frozen=True, slots=True)
class Named:
    """Some frames: how many, and the numbers of the first."""

    count: int = 0
    frames: tuple[int, ...] = ()

    @classmethod
    def of(cls, frames: Iterable[int]) -> Named:
        """Count frames and keep the first numbers."""
        rest = iter(frames)
        first = tuple(islice(rest, FRAMES_NAMED))
        return cls(len(first) + sum(1 for _ in rest), first)


class Census:
    """The frames of a run.

    Attributes:
        cells: frames by fate.
        beyond: numbers of frames that were noted although none of that number was injected.
        overfull: heads of merged skbs that hold more segments than their flow had frames left.
    """

    def __init__(self, evidence: Evidence, known: Circumstances) -> None:
        self._evidence = evidence
        self._gro = known.gro
        self._chained = known.chained
        self._live = known.live
        self.cells = {Cell._make(fate): n for fate, n in Counter(self._fates()).items()}
        self.overfull: list[int] = []
        self._merged = self._spread_segments() if known.gro else bytearray()
        self.beyond = Named.of(self._beyond())

    def total(self, weigh: Callable[[Cell], int]) -> int:
        """Sum a weight over all frames."""
        return sum(weigh(cell) * frames for cell, frames in self.cells.items())

    def name(self, wanted: Callable[[Cell], bool]) -> Named:
        """Name the frames whose fate is wanted."""
        fates = {cell for cell in self.cells if wanted(cell)}
        if not fates:
            return Named()
        rows = (frame for frame, fate in enumerate(self._fates()) if fate in fates)
        return Named(sum(self.cells[cell] for cell in fates), tuple(islice(rows, FRAMES_NAMED)))

    def name_lost(self, wanted: Callable[[Cell], bool]) -> Named:
        """Name the frames whose fate is wanted and that are in no skb at the stack."""
        if not self._gro:
            return self.name(lambda cell: not cell.arrived and wanted(cell))
        fates = {cell for cell in self.cells if not cell.arrived and wanted(cell)}
        return Named.of(
            frame
            for frame, fate in enumerate(self._fates())
            if fate in fates and not self._merged[frame]
        )

    def _fates(self) -> Iterator[tuple[int, ...]]:
        evidence, count = self._evidence, self._evidence.injected
        seen, arrived, socket = evidence.seen, evidence.arrived, evidence.socket
        columns: tuple[Iterable[int], ...] = (
            *(seen.count, seen.cpu, seen.verdict, seen.to_cpu, arrived.count, arrived.cpu),
            repeat(0, count) if socket is None else socket.counts,
            self._made_live(count) if self._live else repeat(0, count),
        )
        return islice(zip(*columns, strict=False), count)

    def _made_live(self, count: int) -> bytearray:
        made = bytearray(count)
        for numbers in self._live:
            made[numbers.start : numbers.stop] = b"\1" * len(numbers)
        return made

    def _beyond(self) -> list[int]:
        evidence, first = self._evidence, self._evidence.injected
        counts: list[Sequence[int]] = [evidence.seen.count, evidence.arrived.count]
        if evidence.socket is not None:
            counts.append(evidence.socket.counts)
        noted = {
            frame
            for column in counts
            if any(column[first:])
            for frame, times in enumerate(column[first:], first)
            if times
        }
        return sorted(noted)

    def _spread_segments(self) -> bytearray:
        """Mark the frames that travel in the merged skb of an earlier frame of their flow.

        GRO merges what follows on itself in a flow, so a head of n segments stands for itself and
        for n - 1 other frames of its flow that are heads of none: those after it, or, when
        several producers mixed their order, those before.
        """
        evidence = self._evidence
        merged = bytearray(evidence.injected)
        waiting: Counter[Hashable] = Counter()
        heads: dict[Hashable, int] = {}
        alone: dict[Hashable, list[int]] = {}
        flows = repeat(0) if evidence.flows is None else evidence.flows
        for frame, (flow, fate) in enumerate(zip(flows, self._fates(), strict=False)):
            cell = Cell._make(fate)
            if not (cell.redirected or cell.passed):
                continue
            road = cell.producer if cell.passed else None if self._chained else cell.to_cpu
            stream = (flow, cell.verdict, road)
            if cell.arrived:
                heads[stream] = frame
                waiting[stream] += cell.arrived - 1
            elif waiting[stream]:
                waiting[stream] -= 1
                merged[frame] = 1
            else:
                alone.setdefault(stream, []).append(frame)
        for key, segments in waiting.items():
            earlier = alone.get(key, [])[:segments]
            for frame in earlier:
                merged[frame] = 1
            if len(earlier) < segments:
                self.overfull.append(heads[key])
        return merged


def misnumbered(table: HopTable, count: int) -> dict[int, str]:
    """Return the CPUs whose running numbers of the first `count` frames are not 1, 2, 3.., and why.

    Empty when the hop keeps no running numbers.
    """
    if not any(table.order):
        return {}
    orders: dict[int, list[int]] = {}
    for times, cpu, order in zip(
        table.count[:count], table.cpu[:count], table.order[:count], strict=True
    ):
        if times:
            orders.setdefault(cpu, []).append(order)
    wrong = {}
    for cpu, numbers in sorted(orders.items()):
        numbers.sort()
        if numbers != list(range(1, len(numbers) + 1)):
            wrong[cpu] = f"{len(numbers)} frames are numbered {numbers[0]} to {numbers[-1]}"
    return wrong


def overtakers(evidence: Evidence, entries: Iterable[int]) -> dict[int, Named]:
    """Return, by CPU, the frames that arrived before one that was steered there earlier.

    Args:
        evidence: the run; both hops must keep running numbers, else nothing is found.
        entries: CPUs to judge, those with a single ring.
    """
    seen, arrived = evidence.seen, evidence.arrived
    if not any(seen.order) or not any(arrived.order):
        return {}
    judged = frozenset(entries)
    columns = (seen.count, seen.verdict, seen.to_cpu, arrived.count, arrived.cpu)
    once = islice(enumerate(zip(*columns, strict=False)), evidence.injected)
    frames = [
        frame
        for frame, (came, verdict, to_cpu, went, cpu) in once
        if came == went == 1 and verdict == XdpAction.REDIRECT and to_cpu == cpu in judged
    ]
    frames.sort(key=lambda frame: (seen.cpu[frame], seen.order[frame]))
    last: dict[tuple[int, int], int] = {}
    early: dict[int, list[int]] = {}
    for frame in frames:
        road = (seen.cpu[frame], seen.to_cpu[frame])
        order = arrived.order[frame]
        if order < last.get(road, -1):
            early.setdefault(road[1], []).append(frame)
        else:
            last[road] = order
    return {cpu: Named.of(frames) for cpu, frames in sorted(early.items())}
