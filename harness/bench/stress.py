"""Many clones, many boots: how often they fail."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from harness.bench.boots import cold_boot
from harness.bench.series import BROKEN, Failure, Summary, summarise
from harness.errors import LabError, TraceError, TrafficError
from harness.guest import Guest
from harness.machine.snapshot import clone
from harness.steering import Plan, Steering

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.machine.machine import Recipe
    from harness.machine.snapshot import Snapshot
    from harness.phases import Phases

FRAMES = 500
"""Sent to every clone: one that answers but moves no frames is no good."""


@dataclass(frozen=True)
class Endurance:
    """The same thing done many times.

    Attributes:
        what: "clone" or "boot".
        kernel: its release.
        runs: how many were made.
        seconds: to the first answer, of those that came up.
        failures: each one that went wrong, at whatever point.
    """

    what: str
    kernel: str
    runs: int
    seconds: Summary
    failures: list[Failure] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "what": self.what,
            "kernel": self.kernel,
            "runs": self.runs,
            "good": self.runs - len(self.failures),
            "seconds": self.seconds.to_json(),
            "failures": [asdict(failure) for failure in self.failures],
        }


def many_boots(recipe: Recipe, runs: int, phases: Phases) -> Endurance:
    """Boot a kernel many times."""

    def use(seconds: list[float]) -> None:
        seconds.append(cold_boot(recipe))

    return _many("boot", recipe, runs, phases, use)


def many_clones(recipe: Recipe, snapshot: Snapshot, runs: int, phases: Phases) -> Endurance:
    """Clone a guest many times; each clone must answer, move frames and not complain."""

    def use(seconds: list[float]) -> None:
        _use_clone(recipe, snapshot, seconds)

    return _many("clone", recipe, runs, phases, use)


def _many(
    what: str, recipe: Recipe, runs: int, phases: Phases, use: Callable[[list[float]], None]
) -> Endurance:
    release = recipe.kernel.release
    seconds: list[float] = []
    failures: list[Failure] = []
    phases.begin(f"{runs} times: {what} of {release}")
    for number in range(1, runs + 1):
        try:
            use(seconds)
        except (*BROKEN, TrafficError, TraceError, Unsound) as error:
            failures.append(Failure(what, number, type(error).__name__, error.message))
        phases.advance(number, runs)
    return Endurance(what, release, runs, summarise(seconds, len(failures)), failures)


class Unsound(LabError):
    """A clone that came up, and whose kernel or books are not in order."""


def _use_clone(recipe: Recipe, snapshot: Snapshot, seconds: list[float]) -> None:
    start = time.monotonic()
    with clone(recipe, snapshot) as machine:
        machine.link.call("read", "/proc/version", 4096)
        seconds.append(time.monotonic() - start)
        guest = Guest.of(machine, snapshot.prepared)
        cpus = range(guest.cpus)
        plan = Plan(targets=tuple(cpus), entries=dict.fromkeys(cpus, FRAMES), frames=FRAMES)
        steering = Steering(guest, plan)
        steering.send([steering.flow(FRAMES)])
        books = steering.close()
        if not books.balanced or books.socket != FRAMES:
            raise Unsound(f"{books.socket} of {FRAMES} arrived: {'; '.join(books.reasons)}")
        splats = guest.splats()
        if splats:
            raise Unsound(f"the kernel said: {splats[0].title}")
