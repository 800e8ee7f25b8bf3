"""What a case holds in its hand: a guest, and around it what every case has to prove."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, TypeVar

import pytest

from harness.errors import AgentLost, GuestError, LabError, UserError
from harness.hold import Hold
from harness.judge import Judgement, judge, judge_error, tell_emulator, tell_hang
from harness.kernels.examine import options_in
from harness.model.control import Entry, Prog
from harness.model.datapath import Queue
from harness.model.facts import Facts
from harness.model.gates import LIVE_FRAMES, PREEMPTIBLE_SOFTIRQS
from harness.patience import wait_until
from harness.steering import Plan, Steering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from harness.guest import Guest
    from harness.machine.splats import Splat
    from harness.model.datapath import Frame
    from harness.model.gates import Gate
    from harness.trace.books import Books
    from harness.traffic.frames import Flow

R = TypeVar("R")

GONE_S = 30.0
LAST_WORDS_S = 5.0
DEFAULT_QSIZE = 192
MAX_BATCH = 256
"""TEST_XDP_MAX_BATCH of net/bpf/test_run.c."""


class Casework:
    """A pristine guest, the run that a case makes in it, and the judgement of both.

    Args:
        guest: a guest that nothing has touched.
        again: the case was run before, and what it died of was laid to the emulator.
        patience: what is left of it with this kernel (`harness.patience.Patience`).

    Attributes:
        guest: the guest.
        kernel: its version numbers, like (6, 1, 192).
        cpus: the numbers of its CPUs, but for spare ones.
        patience: as it was given.
        started: when the guest was there, by time.monotonic().
        books: of the run, once they are closed.
    """

    def __init__(self, guest: Guest, *, again: bool = False, patience: float = 1.0) -> None:
        self.guest = guest
        self._again = again
        self.patience = patience
        self.kernel = guest.machine.kernel.numbers
        self.cpus = range(guest.cpus - guest.spare_cpus)
        self.started = time.monotonic()
        self.books: Books | None = None
        self._run: Steering | None = None

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
        what = Plan(targets, entries, **plan)  # type: ignore[arg-type]
        self._run = Steering(self.guest, what, patience=self.patience)
        return self._run

    def send(self, frames: int, **how: object) -> int:
        """Send one flow of frames into the run; `how` as for `Steering.flow`."""
        return self.run.send([self.run.flow(frames, **how)])  # type: ignore[arg-type]

    def live(
        self,
        frames: int,
        *,
        cpu: int | Iterable[int] = 0,
        batch: int = 64,
        wire: Sequence[Flow] = (),
        **how: object,
    ) -> int:
        """Have CPUs of the guest make a flow of frames each; skip on kernels that cannot.

        Args:
            frames: of each CPU.
            cpu: the CPU, or the CPUs, all at the same time.
            batch: frames between two flushes, 256 at most.
            wire: flows that are sent at the same time.
            how: as for `Steering.flow`.
        """
        self.needs(LIVE_FRAMES)
        cpus = (cpu,) if isinstance(cpu, int) else cpu
        flow = self.run.flow(frames, **how)  # type: ignore[arg-type]
        return self.run.live(dict.fromkeys(cpus, flow), batch=batch, wire=wire)

    def burst(self, frames: int, *, cpu: int) -> int:
        """Put a burst of 256 frames at most into the ring of an entry whose kthread is asleep.

        It is one batch of live frames, made on the kthread's own CPU: it runs when all is in.
        """
        if frames > MAX_BATCH:
            raise UserError(f"a burst of {frames} frames: {MAX_BATCH} at most are flushed at once")
        self.run.wait_rest()
        self.wait_asleep()
        return self.live(frames, cpu=cpu, batch=MAX_BATCH)

    def wait_asleep(self) -> None:
        """Wait until every kthread sleeps: under PREEMPT_RT one that does not may get in between.

        A producer keeps its CPU for a batch, for it has bottom halves off; but it can be preempted
        there, by what is runnable.
        """
        self.wait_for(lambda: all(map(self._is_asleep, self.guest.threads("cpumap/"))))

    def _is_asleep(self, pid: int) -> bool:
        try:
            return "State:\tS" in self.guest.read(f"/proc/{pid}/status")
        except GuestError as error:
            if error.errno not in {errno.ENOENT, errno.ESRCH}:
                raise
            return True  # it has ended since

    @property
    def shares_bulks(self) -> bool:
        """Whether tasks of one CPU preempt each other while they fill or flush its bulk queues.

        They do under PREEMPT_RT, unless bottom halves keep each other out there as of old.
        """
        options = options_in(self.guest.machine.kernel) or {}
        apart = options.get("PREEMPT_RT_NEEDS_BH_LOCK", "n") == "y"
        preempts = "PREEMPT_RT" in self.guest.read("/proc/version") and not apart
        return preempts and PREEMPTIBLE_SOFTIRQS.holds(self.kernel)

    def hold(self, *cpus: int) -> Hold:
        """Keep the kthreads of some of the run's entries from running while a `with` block runs."""
        return Hold(self.run, *cpus)

    def close(self) -> Books:
        """Wait for rest and close the books of the run, which must balance."""
        if self.books is None:
            self.books = self.run.close()
        return self.books

    @property
    def steered(self) -> Steering | None:
        """The run that `steer` started, if it did."""
        return self._run

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

    def model(self, cpu: int, qsize: int, run: Callable[[Frame], int] | None = None) -> Queue:
        """Return what an entry is by the contract, on this kernel: its expectations.

        Args:
            cpu: its key.
            qsize: of its ring.
            run: what its program answers; None: it has none.
        """
        if run is None:
            return Queue(Facts(self.kernel), Entry(cpu, 0, qsize))
        return Queue(Facts(self.kernel), Entry(cpu, 0, qsize, Prog(1)), run=run)

    def needs(self, gate: Gate) -> None:
        """Skip the case on kernels that do not behave so yet."""
        if not gate.holds(self.kernel):
            pytest.skip(f"{gate.what}: since {'.'.join(map(str, gate.since))}")

    def wait_for(self, met: Callable[[], bool]) -> None:
        """Wait until a condition is met, or the case's patience is over: assert it afterwards."""
        machine = self.guest.machine
        limit = GONE_S * machine.pace * self.patience
        if not wait_until(met, limit):
            machine.examine(f"what the case waited for did not come within {limit:.0f} s")

    def kthreads(self) -> list[str]:
        """Return the names of the cpumap kthreads that there are (15 characters before 5.17)."""
        return sorted(self.guest.threads("cpumap/").values())

    def wait_kthreads(self, count: int) -> list[str]:
        """Wait until there are this many cpumap kthreads and return their names, in time or not.

        The end of an entry is asynchronous: an RCU grace period, a workqueue, the ring run empty.
        """
        self.wait_for(lambda: len(self.kthreads()) == count)
        return self.kthreads()

    def wait_left(self, expected: list[str]) -> list[str]:
        """Wait until just these of the run's maps and programs are left and return which are.

        They, too, go asynchronously: the programs first, and with them what they use.
        """
        self.wait_for(lambda: self.run.left() == expected)
        return self.run.left()

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
                if not left and (left := self.wait_left([])):
                    failures.append(f"what nobody holds is still there: {', '.join(left)}")
            books = [self.books] if self.books and not failed else []
            judgement = judge(books, self.guest.splats(), failures)
            return self._tell(judgement)
        except LabError as error:
            return self.explain(error)

    def explain(self, error: LabError) -> Judgement:
        """Return the verdict on a case that an error of the lab's ended."""
        self.guest.look_into(error)
        return self._tell(judge_error(error, last_words(self.guest)))

    def _tell(self, judgement: Judgement) -> Judgement:
        machine = self.guest.machine
        judgement = tell_emulator(judgement, machine.threads, again=self._again)
        return tell_hang(judgement, machine.hang)


def last_words(guest: Guest) -> list[Splat]:
    """Return the splats of a guest that may be dying: its dmesg's, or else its console's.

    The console is given a moment to print the report to its end.
    """
    try:
        return guest.splats()
    except AgentLost:
        guest.machine.listen(LAST_WORDS_S)
        return guest.machine.splats()
