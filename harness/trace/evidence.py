"""What the ledger is given: what is known about a run, and what was observed in it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.trace.events import RingStats, Trace
    from harness.trace.hops import HopTable


_STACK_DROPS_UNTIL = (5, 13)
"""bb0247807744: the kthread's `drops` no longer counts frames that the stack took and dropped."""
_SKB_PASSES_SINCE = (6, 15)
"""57efe762cd3c: `xdp_pass` counts skbs, not frames alone."""


class Mode(enum.StrEnum):
    """Which XDP hook the steering programs are attached to."""

    NATIVE = "native"
    GENERIC = "generic"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One element of a cpumap.

    Attributes:
        cpu: its key, the CPU that its kthread is bound to.
        prog_id: id of its program, 0 for none.
        onward: CPUs, of this or another cpumap, that its program redirects to; empty when the
            program redirects to a device or not at all.
    """

    cpu: int
    prog_id: int = 0
    onward: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cpumap:
    """One cpumap in play.

    Attributes:
        map_id: the kernel's id.
        entries: every entry that lived during the run; an element that was replaced is listed
            once for each entry it held.
    """

    map_id: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known about a run before its books are closed.

    Attributes:
        kernel: version numbers, (6, 12, 43); they gate what events mean.
        mode: native, generic, or both in one run.
        cpumaps: all that exist in the guest.
        prog_ids: ids of the XDP programs on the devices.
        pinned: every kthread stays on the CPU of its key. A CPU that goes offline unpins the
            kthread for good (is_percpu_kthread is false for it); the books then close per map only.
        ordered: frames of one producer to one entry keep their order. Not so when an element is
            replaced in flight.
        gro: frames may be merged before the stack's hop; `Hop.count` counts segments there.
        intact: frames reach the stack as long as XDP saw them. Not so with an entry's program
            that moves head or tail.
        live: numbers of the frames that come from BPF_F_TEST_XDP_LIVE_FRAMES, whose runner
            (test_run.c) traces no xdp_exception.
        redirects_traced: `xdp:xdp_redirect` was enabled, one record per frame.
        ifindexes: of the devices that frames come in by; empty if they are not known.
    """

    kernel: tuple[int, ...]
    mode: Mode
    cpumaps: tuple[Cpumap, ...]
    prog_ids: frozenset[int]
    pinned: bool = True
    ordered: bool = True
    gro: bool = False
    intact: bool = True
    live: tuple[range, ...] = ()
    redirects_traced: bool = False
    ifindexes: frozenset[int] = frozenset()

    @property
    def map_ids(self) -> frozenset[int]:
        """Ids of the cpumaps in play."""
        return frozenset(cpumap.map_id for cpumap in self.cpumaps)

    @property
    def entry_prog_ids(self) -> frozenset[int]:
        """Ids of the programs in entries."""
        return frozenset(
            entry.prog_id for cpumap in self.cpumaps for entry in cpumap.entries if entry.prog_id
        )

    def entries_at(self, map_id: int, cpu: int) -> tuple[Entry, ...]:
        """Return the entries whose kthread may run on a CPU: that key's, unpinned all."""
        return tuple(
            entry
            for cpumap in self.cpumaps
            for entry in cpumap.entries
            if cpumap.map_id == map_id and (entry.cpu == cpu or not self.pinned)
        )

    def reach(self, cpu: int) -> frozenset[int]:
        """Return the CPUs on which a frame that was steered to `cpu` may reach the stack."""
        reached, new = set(), {cpu}
        while new:
            reached |= new
            new = {
                target
                for cpumap in self.cpumaps
                for entry in cpumap.entries
                if entry.cpu in new
                for target in entry.onward
            } - reached
        return frozenset(reached)

    @property
    def counts_stack_drops(self) -> bool:
        """Whether the kthread's `drops` may include frames that did reach the stack."""
        return self.kernel < _STACK_DROPS_UNTIL

    @property
    def counts_every_pass(self) -> bool:
        """Whether the kthread's `xdp_pass` counts all that the program passed."""
        return self.mode is Mode.NATIVE or self.kernel >= _SKB_PASSES_SINCE

    @property
    def chained(self) -> bool:
        """Whether any entry's program redirects to a CPU."""
        return any(entry.onward for cpumap in self.cpumaps for entry in cpumap.entries)


@dataclass(frozen=True, slots=True)
class SocketCounts:
    """What the UDP socket at the end of the run received.

    Attributes:
        counts: times each frame was received, by frame number.
        drops: frames that found its buffer full (datagrams; merged ones count once).
    """

    counts: Sequence[int]
    drops: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was observed in a run.

    Needs the events xdp_cpumap_enqueue, xdp_cpumap_kthread, xdp_redirect_err and xdp_exception;
    xdp_devmap_xmit too where programs redirect to devices.

    Attributes:
        injected: frames proven sent, numbered from 0.
        seen: noted by the XDP program on ingress.
        arrived: noted by the tc ingress program, after the kthread delivered to the stack.
        trace: every record of the run.
        rings: state of each CPU's ring, taken after the last read with tracing off.
        socket: None when the run has no socket.
        flows: the flow of each frame; None when nobody cares.
    """

    injected: int
    seen: HopTable
    arrived: HopTable
    trace: Trace
    rings: tuple[RingStats, ...] = ()
    socket: SocketCounts | None = None
    flows: Sequence[int] | None = None

    def __post_init__(self) -> None:
        columns: dict[str, int] = {"seen": len(self.seen), "arrived": len(self.arrived)}
        if self.socket is not None:
            columns["socket"] = len(self.socket.counts)
        if self.flows is not None:
            columns["flows"] = len(self.flows)
        short = [f"{name} has {size}" for name, size in columns.items() if size < self.injected]
        if short:
            raise TraceError(
                f"{self.injected} frames were injected, but of the tables {', '.join(short)}",
                remedy="give the guest's maps room for every frame of the run",
            )
