"""Stories for the renderers: small worlds with closed books, and a long trace."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from harness.judge import judge
from harness.machine.splats import find_splats
from harness.report.record import (
    KernelRecord,
    QemuRecord,
    RunRecord,
    record_cpus,
    record_ledger,
)
from harness.report.story import Arrival, Expectation, Ring, Story
from harness.tests.ledger_worlds import Plan, World
from harness.trace.events import CpumapEnqueue, CpumapKthread
from harness.trace.latency import measure_waits
from harness.trace.ledger import close_books

if TYPE_CHECKING:
    from harness.trace.books import Books
    from harness.trace.events import Record

OOPS = """\
[    3.100000] veth0: entered promiscuous mode
[    3.200000] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    3.200001] #PF: supervisor read access in kernel mode
[    3.200002] RIP: 0010:cpu_map_kthread_run+0x1f0/0x9a0
[    3.200003] Call Trace:
[    3.200004]  </script><b>kthread</b>+0xd4/0x110
[    3.200005] ---[ end trace 0000000000000000 ]---
[    3.300000] after it
"""


def make_record(books: Books | None, **more: Any) -> RunRecord:
    judgement = judge([books] if books else [], find_splats(more.pop("dmesg", "")))
    fields: dict[str, Any] = {
        "name": "steer & see",
        "verdict": judgement.verdict,
        "reasons": judgement.reasons,
        "kernel": KernelRecord("debian:7.3", "7.3.4+deb14-cloud-amd64", "ab" * 32),
        "qemu": QemuRecord("10.0.2", "tcg", "multi"),
        "ledger": record_ledger(books),
        "per_cpu": record_cpus(books),
        "seed": 42,
        "duration_s": 3.21,
        "artifacts": None,
    }
    return RunRecord(**(fields | more))


def world(*, console: str = "Linux version 7.3\n", dmesg: str = "", **plan: Any) -> Story:
    """Return the story of a small world."""
    evidence, known = World(Plan(**{"socket": True} | plan)).run()
    books = close_books(evidence, known)
    frames = [b"frame %d" % number for number in range(evidence.injected)]
    return Story(
        record=make_record(books, dmesg=dmesg),
        books=books,
        records=evidence.trace.records,
        waits=measure_waits(evidence.trace.records, known),
        rings=[Ring(cpumap.map_id, e.cpu, 64) for cpumap in known.cpumaps for e in cpumap.entries],
        frames=frames,
        arrivals=[
            Arrival(frame, evidence.arrived.cpu[frame], evidence.arrived.order[frame])
            for frame in range(evidence.injected)
            if evidence.arrived.count[frame]
        ],
        expectations=[Expectation("delivered", "48", str(books.delivered), books.delivered == 48)],
        console=console,
        dmesg=dmesg,
        argv=("qemu-system-x86_64", "-append", "console=ttyS0 a='b'"),
        repeat="cpumap-lab run results/steer/scenario.yaml",
    )


def busy(events: int, *, cpus: int = 4, idle: float = 0.0005, seed: int = 7) -> Story:
    """Return a story of so many events: bursts into rings of 256, two slow consumers."""
    rng = random.Random(seed)
    rings = [Ring(5, cpu, 256) for cpu in range(cpus)]
    records: list[Record] = []
    depth, ts = [0] * cpus, 5_000_000_000
    while len(records) < events:
        ts += rng.choice((300, 500, 900, 2_500))
        if rng.random() < idle:
            ts += rng.randrange(1_000_000, 20_000_000)
        cpu = rng.randrange(cpus)
        fill = 0.53 if (len(records) // 9_000) % 3 else 0.47
        if rng.random() < (fill if cpu >= cpus // 2 else 0.5):
            drops = max(0, depth[cpu] + 8 - 256)
            producer = rng.randrange(max(cpus // 2, 1))
            records.append(CpumapEnqueue(producer, ts, 5, 4, 8, drops, cpu, producer))
            depth[cpu] += 8 - drops
        else:
            took = min(8, depth[cpu])
            records.append(CpumapKthread(cpu, ts, 5, 4, took, 0, cpu, int(took == 0), 0, 0, 0))
            depth[cpu] -= took
    books = close_books(*World(Plan(socket=True, full=0.2)).run())
    return Story(record=make_record(books, name="busy"), books=books, records=records, rings=rings)
