"""Keep entries' kthreads from running, and prove that they did not run.

A SCHED_FIFO spinner on each destination CPU. What would let the kthread through is switched off
(kernel/sched/rt.c: RT throttling; kernel/sched/deadline.c: the fair server, 6.12 on). The kthreads
by which a CPU takes part in the life of the others are put above the spinner:

- ksoftirqd: starved, it keeps its CPU's softirqs from running at all on older kernels (before
  d15121be7485, 6.5), RCU's among them.
- RCU's own: what is woken by the held CPU may be put there, where it waits seconds for the load
  balancer. PREEMPT_RT has rcuc, without which no grace period ends (kernel/rcu/tree.c,
  rcu_cpu_kthread), and rcub, which lends its priority to a reader that the spinner keeps from its
  end.
- The workers of the CPU's own workqueues: a CPU that is never idle runs the timers of idle ones,
  and what these queue (SRCU's grace periods) is for the CPU that runs them
  (kernel/time/timer_migration.c, 6.9; get_nohz_timer_target before).
- Those of timers and irq_work under PREEMPT_RT; and cpuhp, which alone takes a CPU offline.

Interrupts have threads under PREEMPT_RT, of priority 50: the spinner's is the lowest of its class,
so that the agent's link and the NICs go on. The agent's own threads leave the CPU: one that is
starved with a lock of their process would stop them all.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Self

from harness.errors import AgentLost, GuestError, LabError
from harness.model.gates import FAIR_SERVER

if TYPE_CHECKING:
    from harness.steering import Steering

SCHED_FIFO = 1
SPINNER_PRIORITY, SERVANT_PRIORITY = 1, 60
SERVANTS = ("ksoftirqd/", "ktimers/", "irq_work/", "rcu", "cpuhp/")
ENOENT, ESRCH = 2, 3


class HoldBroken(LabError):
    """A consumer that was to be held ran all the same: no verdict on the kernel."""


class Hold:
    """While its `with` block runs, the kthreads of some entries do not.

    Args:
        steering: whose entries they are; make them before (an update waits for its kthread).
        cpus: their keys.

    Raises:
        HoldBroken: at the end, if a kthread took frames there in the meantime; at the beginning, if
            the kernel has no switch for what would run it.
    """

    def __init__(self, steering: Steering, *cpus: int) -> None:
        self._steering = steering
        self._guest = steering.guest
        self._cpus = cpus
        self._pids: list[int] = []
        self._taken: list[int] = []
        self._proven = False

    def __enter__(self) -> Self:
        guest = self._guest
        guest.must_own("CPU that does nothing else while it is held")
        guest.write("/proc/sys/kernel/sched_rt_runtime_us", "-1")
        others = (1 << guest.cpus) - 1
        self._promote_servants()
        for cpu in self._cpus:
            self._switch_off_servers(cpu)
            others &= ~(1 << cpu)
        mask = struct.pack("<Q", others)
        for tid in guest.own_threads():
            guest.calls.must("sched_setaffinity", tid, len(mask), mask, why="agent")
        self._pids = [guest.spawn("spin", cpu, SCHED_FIFO, SPINNER_PRIORITY) for cpu in self._cpus]
        self._taken = self._look()
        return self

    def __exit__(self, *failed: object) -> None:
        if isinstance(failed[1], AgentLost):
            return  # there is nobody to end the spinners, and no hold to prove
        taken = self._look()
        for pid in self._pids:
            self._guest.kill(pid)
        if not self._proven and failed[0] is None:
            self._compare(taken)

    def prove(self) -> None:
        """Prove the hold up to here: one of the CPUs is about to go offline, and its kthread on.

        Raises:
            HoldBroken: it ran before.
        """
        self._compare(self._look())
        self._proven = True

    def _compare(self, taken: list[int]) -> None:
        if taken != self._taken:
            raise HoldBroken(
                f"the kthreads on CPUs {self._cpus} had taken {self._taken} frames when SCHED_FIFO "
                f"spinners began to hold them there, and {taken} at the end",
                remedy="see which servers the kernel has in /sys/kernel/debug/sched",
            )

    def _look(self) -> list[int]:
        return [self._steering.taken_on(cpu) for cpu in self._cpus]

    def _promote_servants(self) -> None:
        """Put above spinners what serves other CPUs, everywhere: a spinner's CPU may go offline."""
        guest, priority = self._guest, struct.pack("<i", SERVANT_PRIORITY)
        workers = tuple(f"kworker/{cpu}:" for cpu in self._cpus)
        for pid, comm in guest.threads("").items():
            if not comm.startswith((*SERVANTS, *workers)):
                continue
            result = guest.calls.raw("sched_setscheduler", pid, SCHED_FIFO, priority)
            if result.errno != ESRCH:  # a worker that was idle for long has gone
                result.must(comm)

    def _switch_off_servers(self, cpu: int) -> None:
        """Have no deadline server run tasks of lower classes on a CPU."""
        for server, gate in (("fair_server", FAIR_SERVER), ("ext_server", None)):
            path = f"/sys/kernel/debug/sched/{server}/cpu{cpu}/runtime"
            try:
                self._guest.write(path, "0")
            except GuestError as error:
                if error.errno != ENOENT:
                    raise
                if gate and gate.holds(self._guest.machine.kernel.numbers):
                    raise HoldBroken(
                        f"nothing holds a kthread on CPU {cpu}: {gate.what}, and there is no "
                        f"{path} to switch that off",
                        remedy="build the kernel with CONFIG_DEBUG_FS, before 6.15 with "
                        "CONFIG_SCHED_DEBUG too",
                    ) from error
