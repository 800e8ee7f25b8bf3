"""The findings of `bench traffic`: as tables for people, as one object for programs."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.table import Table

from harness.bench.rates import Sample, Setting, middle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.bench.stream import Stream

FASTER = 5.0
"""Live frames are to be so many times as fast as those of a socket."""
FLAT = 0.2
"""The cost of a frame is to stay so near to that in the shortest stream."""


@dataclass
class Row:
    """One setting.

    Attributes:
        setting: what was measured.
        samples: the runs.
        why: why there are none.
    """

    setting: Setting
    samples: list[Sample] = field(default_factory=list)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times as many frames a second are offered, and taken, as from a socket."""

    setting: Setting
    offered: float
    taken: float


@dataclass
class RateFindings:
    """All that one `bench traffic` found.

    Attributes:
        setting: QEMU, accelerator and host.
        frames: of each run.
        rows: by setting.
        streams: live frames by the million, shortest first.
        rss_kib: resident memory of this process before the streams.
        no_streams: why there are none, or no more.
    """

    setting: dict[str, Any]
    frames: int
    rows: list[Row] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    rss_kib: int = 0
    no_streams: str = "not asked for"

    def speedups(self) -> Iterator[Speedup]:
        """Yield how much faster than a socket live frames are, where both were measured."""
        found = {row.setting: middle(row.samples) for row in self.rows if row.samples}
        for setting, live in found.items():
            socket = found.get(dataclasses.replace(setting, injector="socket"))
            if setting.injector == "live" and socket:
                yield Speedup(setting, live.offered / socket.offered, live.taken / socket.taken)

    def off(self) -> float | None:
        """Return how far the cost of a frame is off that in the shortest stream, at most."""
        if len(self.streams) < 2:
            return None
        first = self.streams[0].cost_us
        return max(abs(each.cost_us / first - 1) for each in self.streams[1:])

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        off = self.off()
        return {
            "setting": self.setting,
            "frames": self.frames,
            "rows": [
                {**asdict(row.setting), "why": row.why, "runs": len(row.samples), **_json_of(row)}
                for row in self.rows
            ],
            "live_over_socket": [
                {
                    **asdict(each.setting),
                    "offered": round(each.offered, 2),
                    "taken": round(each.taken, 2),
                    "target": FASTER,
                }
                for each in self.speedups()
            ],
            "streams": [each.to_json() for each in self.streams],
            "stream_cost_off": None if off is None else {"share": round(off, 3), "target": FLAT},
            "rss_kib_before_streams": self.rss_kib,
            "no_streams": self.no_streams,
        }

    def tables(self) -> Iterator[Table | str]:
        """Yield what people are shown: tables, and lines between them."""
        yield self._rate_table()
        for each in self.speedups():
            where = each.setting
            what = f"{where.kernel}, {where.cpus} CPUs, qsize {where.qsize}"
            yield (
                f"live over socket ({what}), target {FASTER:.0f} times: offered {each.offered:.1f} "
                f"({_told(each.offered >= FASTER)}), taken {each.taken:.1f} "
                f"({_told(each.taken >= FASTER)})"
            )
        if self.no_streams:
            yield f"streams: {self.no_streams}"
        if not self.streams:
            return
        yield self._stream_table()
        if (off := self.off()) is not None:
            yield f"cost of a frame, target {FLAT:.0%} off: {off:.0%} ({_told(off <= FLAT)})"
        last = self.streams[-1].rss_kib
        yield f"memory of the lab: {self.rss_kib >> 10} MiB before the streams, {last >> 10} after"
        yield "streams: tracing off; counted by the programs at XDP and tc, in all and by number"

    def _rate_table(self) -> Table:
        columns = ("KERNEL", "CPUS", "QSIZE", "MODE", "OFFERED/S", "TAKEN/S", "DROPPED")
        waits = ("P50", "P90", "P99", "MAX", "RUNS", "")
        title = f"{self.frames} frames; waits from enqueue to dequeue in µs; medians"
        table = Table("", *columns, *waits, title=title)
        for row in self.rows:
            each = row.setting
            head = (each.injector, each.kernel, str(each.cpus), str(each.qsize), each.mode)
            if not row.samples:
                table.add_row(*head, *[""] * 7, "0", row.why)
                continue
            found = middle(row.samples)
            w = found.waits
            figures = [f"{v:,.0f}" for v in (w.p50, w.p90, w.p99, w.max)]
            shares = (f"{found.offered:,.0f}", f"{found.taken:,.0f}", f"{found.dropped:.0%}")
            table.add_row(*head, *shares, *figures, str(len(row.samples)), row.why)
        return table

    def _stream_table(self) -> Table:
        columns = ("FRAMES", "SECONDS", "CPU SECONDS", "CPU US/FRAME", "LAB RSS MIB")
        table = Table(*columns, title="streams of live frames")
        for each in self.streams:
            times = (f"{each.seconds:.2f}", f"{each.busy_s:.2f}", f"{each.cost_us:.2f}")
            table.add_row(f"{each.frames:,}", *times, f"{each.rss_kib / 1024:.1f}")
        return table


def _told(reached: bool) -> str:
    return "reached" if reached else "missed"


def _json_of(row: Row) -> dict[str, Any]:
    if not row.samples:
        return dict.fromkeys(("offered_per_s", "taken_per_s", "dropped", "wait_us"))
    found = middle(row.samples)
    return {
        "offered_per_s": round(found.offered),
        "taken_per_s": round(found.taken),
        "dropped": round(found.dropped, 4),
        "wait_us": asdict(found.waits),
    }
