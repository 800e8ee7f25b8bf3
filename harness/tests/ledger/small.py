"""A run small enough to reckon by hand: 16 frames, from CPU 0 to CPU 2 of map 5."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from harness.tests.ledger_worlds import (
    FIRST_MAP,
    XDP_PROG,
    recount,
)
from harness.trace.events import (
    CpumapEnqueue,
    CpumapKthread,
    Record,
    Trace,
    XdpAction,
    XdpRedirectErr,
)
from harness.trace.ledger import (
    NO_CPU,
    Books,
    Circumstances,
    Cpumap,
    Entry,
    Evidence,
    Hop,
    HopTable,
    Kind,
    Mode,
    Place,
    SocketCounts,
    close_books,
)

ABORTED, DROP, PASS, _, REDIRECT = XdpAction
ENTRY = Place(map_id=FIRST_MAP, cpu=2)


def enqueue(processed: int, drops: int = 0, cpu: int = 0, to_cpu: int = 2) -> CpumapEnqueue:
    return CpumapEnqueue(cpu, 0, FIRST_MAP, REDIRECT, processed, drops, to_cpu, cpu)


def kthread(
    processed: int, drops: int = 0, cpu: int = 2, ok: int = 0, no: int = 0, on: int = 0
) -> CpumapKthread:
    return CpumapKthread(cpu, 0, FIRST_MAP, REDIRECT, processed, drops, cpu, 0, ok, no, on)


def failure(err: int, map_id: int = FIRST_MAP, index: int = 2) -> XdpRedirectErr:
    return XdpRedirectErr(0, 0, XDP_PROG, REDIRECT, 3, err, 0, map_id, index)


def trace(*runs: tuple[int, Record]) -> list[Record]:
    return [record for times, record in runs for _ in range(times)]


@dataclass
class Small:
    """A run that balances as it stands; a test changes what it wants to see noticed."""

    frames: int = 16
    kernel: tuple[int, ...] = (7, 3, 4)
    mode: Mode = Mode.NATIVE
    prog_id: int = 0
    gro: bool = False
    seen: list[Hop] = field(init=False)
    arrived: list[Hop] = field(init=False)
    socket: list[int] = field(init=False)
    socket_drops: int = 0
    records: list[Record] = field(default_factory=lambda: trace((2, enqueue(8)), (2, kthread(8))))

    def __post_init__(self) -> None:
        self.seen = [Hop(1, 0, REDIRECT, frame + 1, 2, 64) for frame in range(self.frames)]
        self.arrived = [Hop(1, 2, PASS, frame + 1, NO_CPU, 64) for frame in range(self.frames)]
        self.socket = [1] * self.frames

    def forget(self, hop: str, frame: int) -> None:
        """Let a frame never have come by a hop, the running numbers closing up behind it."""
        hops: list[Hop] = getattr(self, hop)
        hops[frame] = Hop()
        for later in range(frame + 1, len(hops)):
            if hops[later].count:
                hops[later] = replace(hops[later], order=hops[later].order - 1)

    def evidence(self) -> Evidence:
        evidence = Evidence(
            self.frames,
            HopTable.of(self.seen),
            HopTable.of(self.arrived),
            Trace((), (), {}),
            socket=SocketCounts(self.socket, self.socket_drops),
            flows=[0] * self.frames,
        )
        return recount(evidence, tuple(self.records))

    def known(self) -> Circumstances:
        entries = (Entry(2, self.prog_id), Entry(3))
        return Circumstances(
            kernel=self.kernel,
            mode=self.mode,
            cpumaps=(Cpumap(FIRST_MAP, entries),),
            prog_ids=frozenset({XDP_PROG}),
            gro=self.gro,
        )

    def close(self) -> Books:
        return close_books(self.evidence(), self.known())


def found(books: Books) -> list[tuple[str, Kind, Place, int, tuple[int, ...]]]:
    return [(item.hop, item.kind, item.place, item.count, item.frames) for item in books.imbalances]
