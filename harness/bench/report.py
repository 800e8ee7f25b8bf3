"""The bench's findings: as tables for people, as one object for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.table import Table

from harness.bench.series import Failure, Rounds, Summary, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.bench.load import Limit, Load
    from harness.bench.stress import Endurance

BOOT, CLONE, OWN = "cold_boot", "clone", "cold_boot_standard"
PEER, PEER_QEMU = "virtme_ng", "virtme_ng_qemu_alone"
NAMES = {
    BOOT: "cold boot",
    CLONE: "clone",
    OWN: "cold boot, standard kernel",
    PEER: "virtme-ng, standard kernel",
    PEER_QEMU: "the same from QEMU's start",
}
MEANINGS = {
    "sender": "into a socket that always has room",
    "qemu": "and QEMU's main loop reads and drops them",
    "xdp_drop": "and the guest's XDP program drops them",
    "cpumap": "and every one is delivered to a UDP socket, on all CPUs",
}


@dataclass
class Findings:
    """All that one run of the bench found.

    Attributes:
        setting: kernels, QEMU, accelerator and host: what the figures hold for.
        frames: sent per injection.
        boots: the figures of `NAMES`, in seconds.
        traffic: trials by stage, in frames per second.
        sending: the whole way again, up to the last frame sent.
        loads: by stage, the load of its median run.
        limit: of the whole way; None if it was not measured.
        peer: why there is no comparison with virtme-ng; "" if there is.
        stress: the endurance runs.
    """

    setting: dict[str, Any]
    frames: int
    boots: Rounds = field(default_factory=Rounds)
    traffic: Rounds = field(default_factory=Rounds)
    sending: Summary | None = None
    loads: dict[str, Load] = field(default_factory=dict)
    limit: Limit | None = None
    peer: str = "not measured"
    stress: list[Endurance] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        """Every trial that failed."""
        stressed = [failure for endurance in self.stress for failure in endurance.failures]
        return [*self.boots.failures, *self.traffic.failures, *stressed]

    @property
    def sound(self) -> bool:
        """Whether nothing of ours failed: a peer that does not boot is told, and is no defect."""
        return all(failure.name == PEER for failure in self.failures)

    @property
    def frames_per_s(self) -> float | None:
        """Frames per second from the first sent to the last proven to have arrived."""
        return self.traffic.summary("cpumap").median

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; what was not measured is null."""
        return {
            "clone_speedup": _rounded(self.boots.ratio(BOOT, CLONE)),
            "boot_speedup_over_virtme_ng": _rounded(self.boots.ratio(PEER, OWN)),
            "boot_speedup_over_virtme_ng_qemu_alone": _rounded(self.boots.ratio(PEER_QEMU, OWN)),
            "frames_per_s": None if self.frames_per_s is None else round(self.frames_per_s),
            "setting": self.setting,
            "seconds": {name: self.boots.summary(name).to_json() for name in NAMES},
            "virtme_ng": self.peer or "measured",
            "traffic": {
                "frames": self.frames,
                "frames_per_s": {s: self.traffic.summary(s).to_json() for s in MEANINGS},
                "sent_per_s": self.sending.to_json() if self.sending else None,
                "load": {stage: load.to_json() for stage, load in self.loads.items()},
                "limit": asdict(self.limit) if self.limit else None,
            },
            "stress": [endurance.to_json() for endurance in self.stress],
            "failures": [asdict(failure) for failure in self.failures],
        }

    def tables(self) -> Iterator[Table | str]:
        """Yield what people are shown: tables, and lines between them."""
        if self.boots.rows:
            yield self._boot_table()
            if self.peer:
                yield f"virtme-ng: {self.peer}"
        if self.traffic.rows:
            yield self._traffic_table()
        if self.limit:
            yield f"limit: {self.limit.who}: {self.limit.why}"
        if self.stress:
            yield self._stress_table()
        for failure in self.failures:
            where = f"{failure.name}, run {failure.round}"
            yield f"failed: {where}: {failure.kind}: {first_line(failure.what)}"

    def _boot_table(self) -> Table:
        table = Table("", "MEDIAN", "MIN", "MAX", "RUNS", "FAILED", "RATIO", title="coming up")
        notes = {
            CLONE: (BOOT, CLONE, "{:.1f} times as fast as the cold boot"),
            PEER: (PEER, OWN, "{:.1f} times as long as ours"),
            PEER_QEMU: (PEER_QEMU, OWN, "{:.1f} times as long as ours"),
        }
        for name, told in NAMES.items():
            summary = self.boots.summary(name)
            if summary.count or summary.failures:
                over, under, text = notes.get(name, ("", "", ""))
                ratio = self.boots.ratio(over, under) if text else None
                figures = (_seconds(v) for v in (summary.median, summary.min, summary.max))
                counts = (str(summary.count), str(summary.failures))
                table.add_row(told, *figures, *counts, text.format(ratio) if ratio else "")
        return table

    def _traffic_table(self) -> Table:
        columns = ("FRAMES/S", "MIN", "MAX", "SENDER", "BLOCKED", "MAIN LOOP", "GUEST CPUS", "")
        table = Table("", *columns, title=f"frames, {self.frames} at a time")
        for stage, meaning in MEANINGS.items():
            summary = self.traffic.summary(stage)
            rates = (_rate(v) for v in (summary.median, summary.min, summary.max))
            load = self.loads.get(stage)
            shares: tuple[str, ...] = ("", "", "", "")
            if load:
                cpus = " ".join(f"{usage.ran:.0%}" for usage in load.vcpus)
                blocked = max(0.0, 1 - load.sender.wanted)
                first = (load.sender.ran, blocked, load.main_loop.ran)
                shares = (*(f"{share:.0%}" for share in first), cpus)
            table.add_row(stage, *rates, *shares, meaning)
        return table

    def _stress_table(self) -> Table:
        columns = ("RUNS", "GOOD", "FAILED", "MEDIAN", "MIN", "MAX")
        table = Table("", "KERNEL", *columns, title="endurance")
        for run in self.stress:
            bad = len(run.failures)
            figures = (_seconds(v) for v in (run.seconds.median, run.seconds.min, run.seconds.max))
            counts = (str(run.runs), str(run.runs - bad), str(bad))
            table.add_row(run.what, run.kernel, *counts, *figures)
        return table


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
