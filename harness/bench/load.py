"""Whose CPU time an injection takes: the sender's, QEMU's main loop's, the guest CPUs'."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.machine.machine import Machine

PROC = Path("/proc")
BUSY = 0.85
"""Of an interval: a thread that ran or wanted to run for so much of it had no time to spare."""
FULL = 0.9
"""Of the host's cores: no more than this comes out of them."""


@dataclass(frozen=True, slots=True)
class Usage:
    """A thread's time over an interval, as fractions of it.

    Attributes:
        ran: on a CPU.
        waited: runnable, with no CPU to run on.
    """

    ran: float
    waited: float

    @property
    def wanted(self) -> float:
        """What it would have run on a host with cores to spare."""
        return self.ran + self.waited


@dataclass(frozen=True, slots=True)
class Load:
    """What an injection cost, each party as a fraction of its wall time.

    Attributes:
        sender: the injecting thread; what it neither ran nor waited, send(2) blocked.
        main_loop: QEMU's main loop, which reads the socket and fills the device's queue.
        vcpus: the threads of the guest's CPUs; none where there is no guest.
    """

    sender: Usage
    main_loop: Usage
    vcpus: tuple[Usage, ...] = ()

    @property
    def guest(self) -> Usage:
        """The guest's busiest CPU."""
        return max(self.vcpus, key=lambda usage: usage.wanted, default=Usage(0.0, 0.0))

    @property
    def cores(self) -> float:
        """How many of the host's cores all of them took together."""
        return sum(u.ran for u in (self.sender, self.main_loop, *self.vcpus))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""

        def pair(usage: Usage) -> dict[str, float]:
            return {"ran": round(usage.ran, 3), "waited": round(usage.waited, 3)}

        return {
            "sender": pair(self.sender),
            "qemu_main_loop": pair(self.main_loop),
            "vcpus": [pair(usage) for usage in self.vcpus],
            "cores": round(self.cores, 3),
        }


@dataclass(frozen=True, slots=True)
class Limit:
    """What keeps an injection from being faster.

    Attributes:
        who: "sender", "QEMU", "guest", "host" (too few cores for all of them) or "hand-over"
            (nobody is busy all the time: they wait for each other).
        why: in figures, for people.
    """

    who: str
    why: str


def name_limit(load: Load, cores: int) -> Limit:
    """Say who had no time to spare.

    Args:
        load: of the injection.
        cores: of the host that this process may use.
    """
    parties = {"sender": load.sender, "QEMU": load.main_loop, "guest": load.guest}
    names = {"sender": "the sender", "QEMU": "QEMU's main loop", "guest": "the busiest guest CPU"}
    who, usage = max(parties.items(), key=lambda party: party[1].wanted)
    ran = ", ".join(f"{names[name]} {u.ran:.0%}" for name, u in parties.items())
    waited = ", ".join(f"{names[name]} {u.waited:.0%}" for name, u in parties.items())
    times = f"of the time, running: {ran}; waiting for a core: {waited}"
    if usage.wanted < BUSY:
        return Limit("hand-over", f"nobody is busy all the time, each waits for another; {times}")
    if load.cores >= FULL * cores:
        return Limit("host", f"this path takes all {cores} cores ({load.cores:.1f}); {times}")
    if usage.waited > usage.ran:
        return Limit(
            "host", f"{names[who]} has no time to spare, but mostly no core either; {times}"
        )
    return Limit(who, f"{names[who]} has no time to spare; {times}")


class Stopwatch:
    """Measures a load: made just before the injection, read just after it.

    Args:
        qemu: QEMU's process id; its first thread is its main loop.
        vcpus: thread ids of the guest's CPUs.
    """

    def __init__(self, qemu: int, vcpus: tuple[int, ...] = ()) -> None:
        self._tasks = (
            PROC / "self" / "task" / str(threading.get_native_id()),
            *(PROC / str(qemu) / "task" / str(thread) for thread in (qemu, *vcpus)),
        )
        self._before = [read_times(task) for task in self._tasks]
        self._start = time.monotonic()

    def read(self) -> Load:
        """Return the load since it was made."""
        wall = time.monotonic() - self._start
        after = [read_times(task) for task in self._tasks]
        sender, main_loop, *vcpus = (
            Usage((b[0] - a[0]) / wall, (b[1] - a[1]) / wall)
            for a, b in zip(self._before, after, strict=True)
        )
        return Load(sender, main_loop, tuple(vcpus))


def vcpu_threads(machine: Machine) -> tuple[int, ...]:
    """Return the thread ids of a machine's CPUs, in their order.

    Raises:
        QemuFailed: QEMU has gone.
    """
    cpus: list[Mapping[str, int]] = machine.qmp("query-cpus-fast")
    return tuple(cpu["thread-id"] for cpu in sorted(cpus, key=lambda cpu: cpu["cpu-index"]))


def busy_s(pid: int) -> float:
    """Return the CPU seconds that the threads of a process have had, but for those that ended."""
    return sum(read_times(task)[0] for task in (PROC / str(pid) / "task").iterdir())


def read_times(task: Path) -> tuple[float, float]:
    """Return the seconds that a thread ran, and that it waited for a CPU (proc(5)).

    Without the scheduler's statistics the first is good to 10 ms, and the second is 0.
    """
    try:
        ran, waited, _ = (task / "schedstat").read_text().split()
        return int(ran) / 1e9, int(waited) / 1e9
    except (OSError, ValueError):
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 0.0
