"""A small world of its own in which every frame is accounted for, to test the ledger against.

It walks single frames along the datapath as kernel/bpf/cpumap.c does and writes down what
tracepoints and programs would; it shares no arithmetic with the ledger.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from harness.trace.events import (
    CpumapEnqueue,
    CpumapKthread,
    Record,
    RingStats,
    Trace,
    XdpAction,
    XdpDevmapXmit,
    XdpException,
    XdpRedirect,
    XdpRedirectErr,
)
from harness.trace.ledger import (
    NO_CPU,
    Circumstances,
    Cpumap,
    Entry,
    Evidence,
    Hop,
    HopTable,
    Mode,
    SocketCounts,
)

XDP_PROG, ENTRY_PROG = 11, 22
FIRST_MAP, NEXT_MAP, DEVMAP = 5, 6, 9
PRODUCERS, TARGETS, NEXT_CPU = (0, 1), (2, 3), 4


@dataclass(frozen=True)
class Plan:
    """What shall happen in a world. Chances are per frame."""

    frames: int = 48
    seed: int = 1
    mode: Mode = Mode.NATIVE
    kernel: tuple[int, ...] = (7, 3, 4)
    verdicts: tuple[XdpAction, ...] = (XdpAction.REDIRECT,)
    prog: bool = False
    chain: bool = False
    """CPU 2's program redirects to CPU 4 of a second cpumap; CPU 3's to a device."""
    full: float = 0.0
    redirect_error: float = 0.0
    no_target: float = 0.0
    no_skb: float = 0.0
    gro: bool = False
    socket: bool = False
    socket_full: float = 0.0
    live: int = 0
    """So many frames, the first ones, are of a live run."""
    redirects_traced: bool = True
    pinned: bool = True


@dataclass
class World:
    """Walks the frames of a plan to their ends."""

    plan: Plan
    rng: random.Random = field(init=False)
    records: list[Record] = field(default_factory=list)
    seen: list[Hop] = field(default_factory=list)
    arrived: list[Hop] = field(default_factory=list)
    socket: list[int] = field(default_factory=list)
    socket_drops: int = 0

    def __post_init__(self) -> None:
        plan = self.plan
        self.rng = random.Random(plan.seed)
        self.skb = {frame: plan.mode is Mode.GENERIC for frame in range(plan.frames)}
        if plan.mode is Mode.MIXED:
            self.skb = {frame: self.chance(0.5) for frame in range(plan.frames)}
        self.rings: dict[tuple[int, int], list[int]] = {}
        self.orders: dict[tuple[str, int], int] = {}
        self.seen = [Hop()] * plan.frames
        self.arrived = [Hop()] * plan.frames
        self.socket = [0] * plan.frames

    def chance(self, likelihood: float) -> bool:
        return self.rng.random() < likelihood

    def now(self) -> int:
        return 1000 + 10 * len(self.records)

    def order(self, hop: str, cpu: int) -> int:
        self.orders[hop, cpu] = self.orders.get((hop, cpu), 0) + 1
        return self.orders[hop, cpu]

    def flow(self, frame: int) -> int:
        return frame % 3

    def run(self) -> tuple[Evidence, Circumstances]:
        bulks: dict[tuple[int, int], list[int]] = {}
        for frame in range(self.plan.frames):
            producer = self.rng.choice(PRODUCERS)
            self.see(frame, producer, bulks)
            if self.chance(0.1):
                self.flush(bulks, producer)
        for producer in PRODUCERS:
            self.flush(bulks, producer)
        for map_id, cpu in sorted(self.rings):
            self.drain(map_id, cpu)
        if (NEXT_MAP, NEXT_CPU) in self.rings:
            self.drain(NEXT_MAP, NEXT_CPU)
        return self.evidence(), self.circumstances()

    def see(self, frame: int, producer: int, bulks: dict[tuple[int, int], list[int]]) -> None:
        plan, verdict = self.plan, self.rng.choice(self.plan.verdicts)
        target = NO_CPU if self.chance(plan.no_target) else self.rng.choice(TARGETS)
        order = self.order("seen", producer)
        length = 60 + frame
        self.seen[frame] = Hop(1, producer, verdict, order, target, length)
        if verdict is XdpAction.PASS:
            self.arrive([frame], producer)
        elif verdict is XdpAction.TX and frame < plan.live:
            self.records.append(XdpDevmapXmit(producer, self.now(), 3, 4, 3, 0, 1, 0))
        elif verdict is XdpAction.ABORTED and frame >= plan.live:
            self.records.append(XdpException(producer, self.now(), XDP_PROG, verdict, 3))
        elif verdict is XdpAction.REDIRECT and target == NO_CPU:
            self.fail(producer, XDP_PROG, -56, 0, 0)
        elif verdict is XdpAction.REDIRECT and self.chance(plan.redirect_error):
            self.fail(producer, XDP_PROG, -75, FIRST_MAP, target)
        elif verdict is XdpAction.REDIRECT and self.skb[frame]:
            self.offer_skb(frame, producer, FIRST_MAP, target, XDP_PROG)
        elif verdict is XdpAction.REDIRECT:
            self.succeed(producer, XDP_PROG, FIRST_MAP, target)
            bulk = bulks.setdefault((producer, target), [])
            if len(bulk) == 8:
                self.flush_one(bulk, producer, FIRST_MAP, target)
            bulk.append(frame)

    def fail(self, cpu: int, prog: int, err: int, map_id: int, index: int) -> None:
        self.records.append(
            XdpRedirectErr(cpu, self.now(), prog, XdpAction.REDIRECT, 3, err, 0, map_id, index)
        )

    def succeed(self, cpu: int, prog: int, map_id: int, index: int, to_ifindex: int = 0) -> None:
        if self.plan.redirects_traced:
            act, ts = XdpAction.REDIRECT, self.now()
            record = XdpRedirect(cpu, ts, prog, act, 3, 0, to_ifindex, map_id, index)
            self.records.append(record)

    def flush(self, bulks: dict[tuple[int, int], list[int]], producer: int) -> None:
        for (cpu, target), bulk in bulks.items():
            if cpu == producer:
                self.flush_one(bulk, producer, FIRST_MAP, target)

    def flush_one(self, bulk: list[int], producer: int, map_id: int, target: int) -> None:
        if not bulk:
            return
        kept = [frame for frame in bulk if not self.chance(self.plan.full)]
        self.enqueue(producer, map_id, target, len(bulk), len(bulk) - len(kept))
        self.rings.setdefault((map_id, target), []).extend(kept)
        bulk.clear()

    def enqueue(self, producer: int, map_id: int, target: int, processed: int, drops: int) -> None:
        self.records.append(
            CpumapEnqueue(
                cpu=producer,
                ts=self.now(),
                map_id=map_id,
                act=XdpAction.REDIRECT,
                processed=processed,
                drops=drops,
                to_cpu=target,
                producer=producer,
            )
        )

    def offer_skb(self, frame: int, producer: int, map_id: int, target: int, prog: int) -> bool:
        full = self.chance(self.plan.full)
        self.enqueue(producer, map_id, target, int(not full), int(full))
        if full:
            self.fail(producer, prog, -28, map_id, target)
            return False
        self.succeed(producer, prog, map_id, target)
        self.rings.setdefault((map_id, target), []).append(frame)
        return True

    def drain(self, map_id: int, cpu: int) -> None:
        ring = self.rings[map_id, cpu]
        while ring:
            size = self.rng.randint(1, 8)
            batch, ring[:] = ring[:size], ring[size:]
            self.take(map_id, cpu, batch)
        self.kthread(map_id, cpu, 0, 0, 0, 0, 0)

    def take(self, map_id: int, key: int, batch: list[int]) -> None:
        plan = self.plan
        cpu = key if plan.pinned else self.rng.choice((key, 6))
        counted = dict.fromkeys(("pass", "drop", "redirect"), 0)
        kept, bulk = [], []
        prog, bypass = plan.prog and map_id == FIRST_MAP, False
        for frame in batch:
            answer = "pass"
            if prog and not (self.skb[frame] and bypass):
                answer = self.rng.choice(("pass", "pass", "drop", "redirect"))
                if answer == "redirect" and not plan.chain:
                    answer = "drop"
                if answer == "drop" and self.chance(0.3):
                    self.fail(cpu, ENTRY_PROG + key, -22, 0, 0)
            if answer == "redirect" and key == 3:
                self.succeed(cpu, ENTRY_PROG + key, DEVMAP, 0, 7)
            if answer == "redirect" and self.skb[frame] and key == 2:
                taken = self.offer_skb(frame, cpu, NEXT_MAP, NEXT_CPU, ENTRY_PROG + key)
                answer = "redirect" if taken else "drop"
            elif answer == "redirect" and not self.skb[frame]:
                bulk.append(frame)
                if key == 2:
                    self.succeed(cpu, ENTRY_PROG + key, NEXT_MAP, NEXT_CPU)
            old_skb = self.skb[frame] and plan.kernel < (6, 15)
            bypass = bypass or (old_skb and answer != "pass")
            if answer == "pass":
                kept.append(frame)
            if prog and not (old_skb and answer == "pass"):
                counted[answer] += 1
        lost = [frame for frame in kept if self.chance(plan.no_skb)]
        kept = [frame for frame in kept if frame not in lost]
        self.kthread(map_id, cpu, len(batch), len(lost), *counted.values())
        if key == 2:
            self.flush_one(bulk, cpu, NEXT_MAP, NEXT_CPU)
        elif bulk:
            drops = self.rng.randint(0, len(bulk))
            xmit = XdpDevmapXmit(cpu, self.now(), 3, 4, 7, drops, len(bulk) - drops, 0)
            self.records.append(xmit)
        for group in self.merge(kept):
            self.arrive(group, cpu)

    def kthread(
        self, map_id: int, cpu: int, processed: int, drops: int, ok: int, no: int, on: int
    ) -> None:
        self.records.append(
            CpumapKthread(
                cpu=cpu,
                ts=self.now(),
                map_id=map_id,
                act=XdpAction.REDIRECT,
                processed=processed,
                drops=drops,
                kthread_cpu=cpu,
                sched=int(processed == 0),
                xdp_pass=ok,
                xdp_drop=no,
                xdp_redirect=on,
            )
        )

    def merge(self, frames: list[int]) -> list[list[int]]:
        if not self.plan.gro:
            return [[frame] for frame in frames]
        flows: dict[int, list[int]] = {}
        for frame in frames:
            flows.setdefault(self.flow(frame), []).append(frame)
        return list(flows.values())

    def arrive(self, group: list[int], cpu: int) -> None:
        head = group[0]
        order = self.order("arrived", cpu)
        self.arrived[head] = Hop(len(group), cpu, 0, order, 0, self.seen[head].length)
        for frame in group:
            if self.plan.socket and not self.chance(self.plan.socket_full):
                self.socket[frame] += 1
            elif self.plan.socket:
                self.socket_drops += 1

    def evidence(self) -> Evidence:
        cpus = sorted({record.cpu for record in self.records})
        decoded = {cpu: sum(record.cpu == cpu for record in self.records) for cpu in cpus}
        return Evidence(
            injected=self.plan.frames,
            seen=HopTable.of([*self.seen, Hop(), Hop()]),
            arrived=HopTable.of([*self.arrived, Hop(), Hop()]),
            trace=Trace(tuple(self.records), (), decoded),
            rings=tuple(RingStats(cpu, 0, 0, 0, 0, decoded[cpu]) for cpu in cpus),
            socket=SocketCounts([*self.socket, 0, 0], self.socket_drops)
            if self.plan.socket
            else None,
            flows=[self.flow(frame) for frame in range(self.plan.frames)],
        )

    def circumstances(self) -> Circumstances:
        plan = self.plan
        first = tuple(
            Entry(
                cpu,
                ENTRY_PROG + cpu if plan.prog else 0,
                (NEXT_CPU,) if plan.chain and cpu == 2 else (),
            )
            for cpu in TARGETS
        )
        maps = [Cpumap(FIRST_MAP, first)]
        if plan.chain:
            maps.append(Cpumap(NEXT_MAP, (Entry(NEXT_CPU),)))
        return Circumstances(
            kernel=plan.kernel,
            mode=plan.mode,
            cpumaps=tuple(maps),
            prog_ids=frozenset({XDP_PROG}),
            pinned=plan.pinned,
            gro=plan.gro,
            live=(range(plan.live),) if plan.live else (),
            redirects_traced=plan.redirects_traced,
            ifindexes=frozenset({3}),
        )


def recount(evidence: Evidence, records: tuple[Record, ...]) -> Evidence:
    """Return the evidence with other records, its rings in accord with them."""
    cpus = {record.cpu for record in records} | set(evidence.trace.decoded)
    decoded = {cpu: sum(record.cpu == cpu for record in records) for cpu in sorted(cpus)}
    rings = tuple(RingStats(cpu, 0, 0, 0, 0, count) for cpu, count in decoded.items())
    return replace(evidence, trace=Trace(records, (), decoded), rings=rings)
