"""Does the host let QEMU run? From /proc (proc(5); Documentation/scheduler/sched-stats.rst)."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

STARVED = 0.05
"""So little of its fair share of the host's CPUs makes a guest miss deadlines without a fault."""
DEMAND = 0.9
"""CPUs that a process asks for on average; one that asks for less does not starve."""
TICK_HZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread of QEMU's.

    Attributes:
        state: "R", "S", "D", "T", … as in proc(5).
        ran_s: seconds that it ran on a CPU.
        waited_s: seconds that it was runnable and waited for one.
    """

    state: str
    ran_s: float
    waited_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """The threads of a process at one moment.

    Attributes:
        at: when, in seconds since the host booted.
        born: when the process began, likewise.
        threads: by thread id.
    """

    at: float
    born: float
    threads: Mapping[int, Thread]


@dataclass(frozen=True, slots=True)
class Share:
    """What a process had of the host's CPUs over a time.

    Attributes:
        span_s: the time.
        ran_s, waited_s: of all its threads together.
        cpus: of the host, that it may use.
    """

    span_s: float
    ran_s: float
    waited_s: float
    cpus: int

    @property
    def got(self) -> float:
        """Return the part that it got of what it asked for."""
        asked = self.ran_s + self.waited_s
        return self.ran_s / asked if asked else 1.0

    @property
    def starved(self) -> bool:
        """Tell whether others kept it from running: not only more threads than there are CPUs."""
        asked = (self.ran_s + self.waited_s) / self.span_s
        return asked >= DEMAND and self.got < STARVED * min(1.0, self.cpus / asked)

    def __str__(self) -> str:
        return (
            f"ran for {self.ran_s:.1f} s and waited {self.waited_s:.1f} s for one of "
            f"{self.cpus} CPUs, in {self.span_s:.1f} s"
        )


def read_load(pid: int) -> Load:
    """Return what the threads of a process have had of the host's CPUs so far.

    Raises:
        OSError: there is no such process any more.
    """
    root = Path(f"/proc/{pid}")
    born = int(_stat(root)[19]) / TICK_HZ  # starttime
    threads = {}
    for path in (root / "task").iterdir():
        with contextlib.suppress(OSError):  # it ended just now
            threads[int(path.name)] = _read_thread(path)
    return Load(time.clock_gettime(time.CLOCK_BOOTTIME), born, threads)


def share_since(start: Load | None, end: Load) -> Share:
    """Return what a process had between two looks, or since it began."""
    before = start.threads if start else {}
    none = Thread("", 0.0, 0.0)
    ran = sum(now.ran_s - before.get(tid, none).ran_s for tid, now in end.threads.items())
    waited = sum(now.waited_s - before.get(tid, none).waited_s for tid, now in end.threads.items())
    span = end.at - (start.at if start else end.born)
    return Share(max(span, 0.01), ran, waited, len(os.sched_getaffinity(0)))


def tell_pressure() -> str:
    """Return how busy the host is: its load and, if it tells, its CPU pressure."""
    load = " ".join(f"{part:.1f}" for part in os.getloadavg())
    try:
        pressure = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except OSError:  # no CONFIG_PSI
        return f"load {load}"
    return f"load {load}, CPU pressure: {pressure}"


def _stat(path: Path) -> list[str]:
    """Return the fields of a `stat` from the state on: the name before may hold anything."""
    return (path / "stat").read_text().rpartition(")")[2].split()


def _read_thread(path: Path) -> Thread:
    fields = _stat(path)
    try:
        ran, waited, _ = map(int, (path / "schedstat").read_text().split())
    except (OSError, ValueError):  # no CONFIG_SCHED_INFO: what it waited for is not known
        return Thread(fields[0], (int(fields[11]) + int(fields[12])) / TICK_HZ, 0.0)
    return Thread(fields[0], ran / 1e9, waited / 1e9)
