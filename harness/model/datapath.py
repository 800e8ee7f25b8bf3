"""The data path of kernel/bpf/cpumap.c: bulk queues, the ring, the kthread and its program."""

from __future__ import annotations

import errno
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.model import gates
from harness.model.control import XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_REDIRECT, Entry
from harness.model.ring import PtrRing

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.model.facts import Facts

CPU_MAP_BULK_SIZE = 8
CPUMAP_BATCH = 8
NAPI_POLL_WEIGHT = 64


@dataclass(frozen=True, slots=True)
class Frame:
    """What goes through an entry: an xdp_frame, or the skb of generic XDP."""

    number: int
    skb: bool = False


@dataclass(frozen=True, slots=True)
class Enqueue:
    """`xdp:xdp_cpumap_enqueue`."""

    processed: int
    drops: int
    to_cpu: int


@dataclass(slots=True)
class Kthread:
    """`xdp:xdp_cpumap_kthread`."""

    processed: int
    drops: int = 0
    xdp_pass: int = 0
    xdp_drop: int = 0
    xdp_redirect: int = 0


@dataclass(frozen=True, slots=True)
class XdpException:
    """`xdp:xdp_exception`."""

    act: int


@dataclass(frozen=True, slots=True)
class RedirectErr:
    """`xdp:xdp_redirect_err`; `err` is negative, as traced."""

    err: int


@dataclass(frozen=True, slots=True)
class Received:
    """`net:netif_receive_skb`: the stack got a frame as an skb of its own."""

    frame: Frame


Record = Enqueue | Kthread | XdpException | RedirectErr | Received


def _pass(_: Frame) -> int:
    return XDP_PASS


def _goes(_: Frame) -> int:
    return 0


@dataclass(slots=True)
class Queue:
    """The moving parts of one entry.

    Attributes:
        facts: the guest.
        entry: whose they are.
        run: what the entry's program answers to a frame.
        redirect: errno of what it redirects.
        spare_skbs: skbs that can still be allocated; None is no limit.
        stack_drops: the stack drops all that it gets.
        trace: records so far, in order.
        flushes: packets in each flush of GRO.
    """

    facts: Facts
    entry: Entry
    run: Callable[[Frame], int] = _pass
    redirect: Callable[[Frame], int] = _goes
    spare_skbs: int | None = None
    stack_drops: bool = False
    trace: list[Record] = field(default_factory=list)
    flushes: list[int] = field(default_factory=list)
    ring: PtrRing[Frame] = field(init=False)
    bulkq: defaultdict[int, list[Frame]] = field(init=False)
    awake: bool = field(default=False, init=False)
    _held: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.ring = PtrRing(self.entry.qsize, cache_line=self.facts.cache_line)
        self.bulkq = defaultdict(list)

    @property
    def delivered(self) -> list[Frame]:
        """What reached the stack, in order."""
        return [record.frame for record in self.trace if isinstance(record, Received)]

    # -- producers

    def bq_enqueue(self, frame: Frame, cpu: int) -> None:
        """Put a frame into a producer's bulk queue; a full one is flushed first, unannounced."""
        if len(self.bulkq[cpu]) == CPU_MAP_BULK_SIZE:
            self.bq_flush_to_queue(cpu)
        self.bulkq[cpu].append(frame)

    def bq_flush_to_queue(self, cpu: int) -> None:
        """Offer a producer's bulk to the ring; what finds no room is dropped and counted."""
        bulk, self.bulkq[cpu] = self.bulkq[cpu], []
        if bulk:
            drops = [self.ring.produce(frame) for frame in bulk].count(False)
            self.trace.append(Enqueue(len(bulk), drops, self.entry.cpu))

    def cpu_map_flush(self, cpu: int) -> None:
        """End a producer's NAPI poll (__cpu_map_flush): only now is the kthread woken."""
        if self.bulkq[cpu]:
            self.bq_flush_to_queue(cpu)
            self.awake = True

    def poll(self, frames: int, cpu: int = 0) -> list[tuple[int, int]]:
        """Have a producer bring frames here, all in one NAPI poll or batch of live frames.

        Returns:
            What is traced of it: `processed` and `drops` of each bulk.
        """
        before = len(self.trace)
        for number in range(frames):
            self.bq_enqueue(Frame(number), cpu)
        self.cpu_map_flush(cpu)
        new = (record for record in self.trace[before:] if isinstance(record, Enqueue))
        return [(record.processed, record.drops) for record in new]

    def cpu_map_generic_redirect(self, skb: Frame) -> int:
        """Offer one skb to the ring: nothing is bulked, and a drop is told twice."""
        if not gates.STACK_KNOWS_CPUMAP_GENERIC.holds(self.facts.kernel):
            self.trace.append(RedirectErr(-errno.EBADRQC))
            return errno.EBADRQC
        taken = self.ring.produce(skb)
        self.trace.append(Enqueue(int(taken), int(not taken), self.entry.cpu))
        if taken:
            self.awake = True
            return 0
        self.trace.append(RedirectErr(-errno.ENOSPC))
        return errno.ENOSPC

    # -- the consumer

    def cpu_map_kthread_run(self, *, stop: bool = False) -> None:
        """Let the kthread run until its ring is empty.

        Args:
            stop: and tell it to end: it takes nothing once more, and traces that.
        """
        while not self.ring.empty():
            self._batch()
        if stop:
            self._batch()
        self.awake = False

    def _batch(self) -> None:
        taken = self.ring.consume_batched(CPUMAP_BATCH)
        stats = Kthread(len(taken))
        frames = [frame for frame in taken if not frame.skb]
        skbs = [frame for frame in taken if frame.skb]
        if self.entry.prog:
            frames = self.cpu_map_bpf_prog_run_xdp(frames, stats)
            skbs = self.cpu_map_bpf_prog_run_skb(skbs, stats)
        frames = self._build_skbs(frames, stats)
        kernel, gro = self.facts.kernel, gates.GRO.holds(self.facts.kernel)
        received = [Received(frame) for frame in (frames + skbs if gro else skbs + frames)]
        if self.stack_drops and not gates.LIST_DELIVERY.holds(kernel):
            stats.drops += len(received)
        early = gates.TRACED_BEFORE_STACK.holds(kernel)
        self.trace += [stats, *received] if early else [*received, stats]
        if gro:
            self.cpu_map_gro_flush(stats.processed)

    def _build_skbs(self, frames: list[Frame], stats: Kthread) -> list[Frame]:
        if self.spare_skbs is None:
            return frames
        got = min(len(frames), self.spare_skbs)
        if got < len(frames) and not gates.GRO.holds(self.facts.kernel):
            got = 0  # kmem_cache_alloc_bulk gives all or nothing
        self.spare_skbs -= got
        stats.drops = len(frames) - got
        return frames[:got]

    def cpu_map_bpf_prog_run_xdp(self, frames: list[Frame], stats: Kthread) -> list[Frame]:
        """Run the entry's program on frames and return those that go on to the stack."""
        traced = gates.FRAME_EXCEPTIONS.holds(self.facts.kernel)
        kept = [frame for frame in frames if self._verdict(frame, stats, traced=traced)]
        stats.xdp_pass += len(kept)
        return kept

    def cpu_map_bpf_prog_run_skb(self, skbs: list[Frame], stats: Kthread) -> list[Frame]:
        """Run the entry's program on skbs and return those that go on to the stack.

        Before 6.15 the first that is not passed ends the run: the rest of the batch goes to the
        stack unseen by the program. Nor are skbs counted that it passes.
        """
        whole = gates.GRO.holds(self.facts.kernel)
        kept: list[Frame] = []
        for place, skb in enumerate(skbs):
            if self._verdict(skb, stats, traced=True):
                kept.append(skb)
            elif not whole:
                return kept + skbs[place + 1 :]
        if whole:
            stats.xdp_pass += len(kept)
        return kept

    def _verdict(self, frame: Frame, stats: Kthread, *, traced: bool) -> bool:
        act = self.run(frame)
        if act == XDP_PASS:
            return True
        if act == XDP_REDIRECT:
            err = self.redirect(frame)
            if err:
                self.trace.append(RedirectErr(-err))
                stats.xdp_drop += 1
            else:
                stats.xdp_redirect += 1
            return False
        if traced and (act == XDP_ABORTED or act > XDP_DROP):
            self.trace.append(XdpException(act))
        stats.xdp_drop += 1
        return False

    def cpu_map_gro_flush(self, processed: int) -> None:
        """Flush GRO once 64 packets were taken since the last time, or the ring is empty."""
        self._held += processed
        if self._held >= NAPI_POLL_WEIGHT or self.ring.empty():
            self.flushes.append(self._held)
            self._held = 0

    def cpu_map_entry_free(self) -> None:
        """Let the entry go (__cpu_map_entry_free): its kthread empties the ring before it ends."""
        for cpu in list(self.bulkq):
            self.cpu_map_flush(cpu)
        self.cpu_map_kthread_run(stop=True)
