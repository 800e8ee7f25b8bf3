"""What is told of a finished run. Its JSON form is what `cpumap-lab run --json` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.trace.books import Books
    from harness.verdict import Verdict

PAGE = "report.html"
"""The run as a page, in the directory of its artifacts."""


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """The kernel of a run.

    Attributes:
        spec: as the user named it.
        release: what `uname -r` says; None when it was never resolved.
        sha256: of the kernel image, in hex; None likewise.
    """

    spec: str
    release: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class QemuRecord:
    """The machine of a run.

    Attributes:
        version: of QEMU; None when there was none.
        accelerator: "kvm" or "tcg"; None when none was chosen.
        threads: "multi" or "single" under TCG; None otherwise.
    """

    version: str | None = None
    accelerator: str | None = None
    threads: str | None = None


@dataclass(frozen=True, slots=True)
class CpuRecord:
    """What happened to the frames for one destination CPU, in frames.

    Attributes:
        cpu: the CPU.
        enqueued: offered to the rings of its entries.
        dropped: of those, refused by a full ring.
        kthread: taken by kthreads that ran here.
        delivered: handed to the stack here.
    """

    cpu: int
    enqueued: int
    dropped: int
    kthread: int
    delivered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run, as far as it came.

    Attributes:
        name: of the scenario or case.
        verdict: how it ended.
        reasons: why it did not pass; empty when it did.
        kernel: what ran.
        qemu: what it ran on.
        ledger: every account of the books in frames, and `balanced`; None when the run ended
            before there was anything to book.
        per_cpu: by destination CPU.
        seed: of all that was drawn by lot.
        duration_s: from the look for the kernel to the verdict, in seconds.
        artifacts: directory of what was kept; None when nothing was.
        hang: why the guest kept the lab waiting, like "guest idle" (harness.machine.hang.findings,
            Kind); None when it did not.
    """

    name: str
    verdict: Verdict
    reasons: tuple[str, ...]
    kernel: KernelRecord
    qemu: QemuRecord
    ledger: Mapping[str, int | bool | None] | None
    per_cpu: tuple[CpuRecord, ...]
    seed: int
    duration_s: float
    artifacts: Path | None
    hang: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-able values. These keys are a public contract."""
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "kernel": asdict(self.kernel),
            "qemu": asdict(self.qemu),
            "ledger": None if self.ledger is None else dict(self.ledger),
            "per_cpu": [asdict(cpu) for cpu in self.per_cpu],
            "seed": self.seed,
            "duration_s": round(self.duration_s, 3),
            "artifacts": None if self.artifacts is None else str(self.artifacts),
            "hang": self.hang,
        }


def record_ledger(books: Books | None) -> dict[str, int | bool | None] | None:
    """Return a record's `ledger`."""
    return None if books is None else {**books.accounts(), "balanced": books.balanced}


def record_cpus(books: Books | None) -> tuple[CpuRecord, ...]:
    """Return a record's `per_cpu`."""
    rows = () if books is None else books.per_cpu
    return tuple(
        CpuRecord(row.cpu, row.enqueued, row.dropped, row.kthread, row.delivered) for row in rows
    )
