"""What a case holds in its hand: a guest, and around it what every case has to prove."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import pexpect
import pytest

from harness.errors import AgentLost, LabError, UserError
from harness.hold import Hold
from harness.judge import Judgement, judge, judge_error
from harness.model.gates import STACK_KNOWS_CPUMAP_GENERIC
from harness.plan import Plan
from harness.steering import Steering

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.guest import Guest
    from harness.machine.splats import Splat
    from harness.model.gates import Gate
    from harness.trace.books import Books

R = TypeVar("R")

GONE_S = 30.0
LAST_WORDS_S = 5.0
POLL_S = 0.01
DEFAULT_QSIZE = 192


class Casework:
    """A pristine guest, the run that a case makes in it, and the judgement of both.

    Args:
        guest: a guest that nothing has touched.

    Attributes:
        guest: the guest.
        kernel: its version numbers, like (6, 1, 192).
        cpus: its CPUs' numbers.
    """

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.kernel = guest.machine.recipe.kernel.numbers
        self.cpus = range(guest.cpus)
        self._run: Steering | None = None
        self._books: Books | None = None

    def steer(
        self,
        to: int | tuple[int, ...] | range,
        *,
        entries: Mapping[int, int] | None = None,
        **plan: object,
    ) -> Steering:
        """Start to steer frames into a cpumap; once per case.

        Args:
            to: the CPU, or the CPUs in turn.
            entries: qsize by CPU; by default one of 192 for every CPU steered to.
            plan: other fields of `harness.steering.Plan`.
        """
        if self._run is not None:
            raise UserError("a case steers once: its books are those of one run")
        targets = (to,) if isinstance(to, int) else tuple(to)
        if entries is None:
            entries = dict.fromkeys(targets, DEFAULT_QSIZE)
        self._run = Steering(self.guest, Plan(targets, entries, **plan))  # type: ignore[arg-type]
        return self._run

    def send(self, frames: int, **how: object) -> int:
        """Send one flow of frames into the run; `how` as for `Steering.flow`."""
        return self.run.send([self.run.flow(frames, **how)])  # type: ignore[arg-type]

    def hold(self, cpu: int) -> Hold:
        """Keep the kthread of the run's entry from running while a `with` block runs."""
        return Hold(self.run, cpu)

    def close(self) -> Books:
        """Wait for rest and close the books of the run, which must balance."""
        if self._books is None:
            self._books = self.run.close()
        return self._books

    @property
    def run(self) -> Steering:
        """The run that `steer` started."""
        if self._run is None:
            raise UserError("the case has not steered yet")
        return self._run

    def records(self, kind: type[R]) -> list[R]:
        """Return the trace records of one kind, so far, in order of time."""
        tracer = self.guest.tracer
        tracer.drain()
        return [record for record in tracer.trace().records if isinstance(record, kind)]

    def needs(self, gate: Gate) -> None:
        """Skip the case on kernels that do not behave so yet."""
        if not gate.holds(self.kernel):
            pytest.skip(f"{gate.what}: since {'.'.join(map(str, gate.since))}")

    def needs_mode(self, mode: str) -> None:
        """Skip the case where this kernel's XDP mode cannot redirect into a cpumap."""
        if mode == "generic":
            self.needs(STACK_KNOWS_CPUMAP_GENERIC)

    def wait_for(self, met: Callable[[], bool]) -> None:
        """Wait until a condition is met, or the case's patience is over: assert it afterwards."""
        deadline = time.monotonic() + GONE_S * self.guest.machine.recipe.accel.pace
        while not met() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def kthreads(self) -> list[str]:
        """Return the names of the cpumap kthreads that there are (15 characters before 5.17)."""
        return sorted(self.guest.threads("cpumap/").values())

    def wait_kthreads(self, count: int) -> list[str]:
        """Wait until there are this many cpumap kthreads and return their names, in time or not.

        The end of an entry is asynchronous: an RCU grace period, a workqueue, the ring run empty.
        """
        self.wait_for(lambda: len(self.kthreads()) == count)
        return self.kthreads()

    def finish(self, *, failed: bool = False) -> Judgement:
        """Close the books, see the kthreads gone, ask the kernel how it is, and judge.

        Args:
            failed: the case itself has failed already: only a crash adds to that.
        """
        try:
            failures = []
            if self._run is not None and not failed:
                self.close()
                self._run.dismantle()
                if damaged := self._run.damaged():
                    failures.append(f"{len(damaged)} payloads were damaged: {damaged[:16]}")
                if left := self.wait_kthreads(0):
                    failures.append(f"kthreads that outlive their map: {', '.join(left)}")
            books = [self._books] if self._books and not failed else []
            return judge(books, self.guest.splats(), failures)
        except LabError as error:
            return self.explain(error)

    def explain(self, error: LabError) -> Judgement:
        """Return the verdict on a case that an error of the lab's ended."""
        return judge_error(error, last_words(self.guest))


def last_words(guest: Guest) -> list[Splat]:
    """Return the splats of a guest that may be dying: its dmesg's, or else its console's.

    The console is given a moment to print the report to its end.
    """
    try:
        return guest.splats()
    except AgentLost:
        guest.machine.console.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=LAST_WORDS_S)
        return guest.machine.splats()
