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
- Workers of no CPU's own: the spinner of a CPU that goes offline moves on to another, with theirs.
- Those of timers and irq_work under PREEMPT_RT; and cpuhp, which alone takes a CPU offline.

kthreadd, which would wait there as they do, leaves the CPU: what it makes begins elsewhere. So does
all work of no CPU's own: a worker for it may be woken where it last ran (wake_affine sees no load
of its class) and wait for the load balancer, which may leave it for half a minute; and one that is
made meanwhile would be below the spinner.

A CPU that goes offline may pull real-time tasks that wait elsewhere (DEAD_CPUS_PULL_NONE), such as
the spinner that it has just sent away, and warn that it is offline itself. With RT_PUSH_IPI those
others push theirs to a CPU that is online; late releases of 5.10 have that off by default.

Where the fair server cannot be switched off, what it gives the fair class, a twentieth of the CPU,
is taken by decoys: the kthreads wait there as SCHED_IDLE behind spinners of nice -20, for minutes.

Interrupts have threads under PREEMPT_RT, of priority 50: the spinner's is the lowest of its class,
so that the agent's link and the NICs go on. The agent's own threads leave the CPU: one that is
starved with a lock of their process would stop them all.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Self

from harness.errors import AgentLost, GuestError, LabError
from harness.model.gates import DEAD_CPUS_PULL_NONE, FAIR_SERVER

if TYPE_CHECKING:
    from harness.steering import Steering

SCHED_NORMAL, SCHED_FIFO, SCHED_IDLE = 0, 1, 5
PRIO_PROCESS, NICEST = 0, -20
DECOYS = 8
"""On each CPU: a kthread that is made meanwhile, of nice 0, waits half a minute behind so many."""
SPINNER_PRIORITY, SERVANT_PRIORITY = 1, 60
SERVANTS = ("ksoftirqd/", "ktimers/", "irq_work/", "rcu", "cpuhp/", "kworker/u")
KTHREADD = 2
"""Its pid (init/main.c, rest_init)."""
ENOENT, ESRCH, EACCES = 2, 3, 13
UNBOUND_WORK = "/sys/devices/virtual/workqueue/cpumask"
"""The CPUs for work of no CPU's own (kernel/workqueue.c, workqueue_set_unbound_cpumask)."""
FEATURES = "/sys/kernel/debug/sched_features"
"""Until 5.12, of kernels with CONFIG_SCHED_DEBUG."""


class HoldBroken(LabError):
    """A consumer that was to be held ran all the same: no verdict on the kernel."""


class Hold:
    """While its `with` block runs, the kthreads of some entries do not.

    Args:
        steering: whose entries they are; make them before (an update waits for its kthread).
        cpus: their keys.

    Raises:
        HoldBroken: at the end, if a kthread took frames there in the meantime.
    """

    def __init__(self, steering: Steering, *cpus: int) -> None:
        self._steering = steering
        self._guest = steering.guest
        self._cpus = cpus
        self._work_on = ""
        self._pids: list[int] = []
        self._lowered: list[int] = []
        self._taken: list[int] = []
        self._proven = False

    def __enter__(self) -> Self:
        guest = self._guest
        guest.must_own("CPU that does nothing else while it is held")
        guest.write("/proc/sys/kernel/sched_rt_runtime_us", "-1")
        if not DEAD_CPUS_PULL_NONE.holds(guest.machine.kernel.numbers):
            self._write_if_there(FEATURES, "RT_PUSH_IPI")
        others = sum(1 << cpu for cpu in range(guest.cpus) if cpu not in self._cpus)
        self._work_on = guest.read(UNBOUND_WORK)
        guest.write(UNBOUND_WORK, _bitmap(others))
        self._promote_servants()
        served = [cpu for cpu in self._cpus if not self._switch_off_servers(cpu)]
        mask = struct.pack("<Q", others)
        for tid in (KTHREADD, *guest.own_threads()):
            guest.calls.must("sched_setaffinity", tid, len(mask), mask, why="leave a held CPU")
        decoys = [guest.spawn("spin", cpu) for cpu in served for _ in range(DECOYS)]
        self._pids = [guest.spawn("spin", cpu, SCHED_FIFO, SPINNER_PRIORITY) for cpu in self._cpus]
        self._pids += decoys
        self._prefer(decoys, served)
        self._taken = self._look()
        return self

    def __exit__(self, *failed: object) -> None:
        if isinstance(failed[1], AgentLost):
            return  # there is nobody to end the spinners, and no hold to prove
        taken = self._look()
        for pid in self._pids:
            self._guest.kill(pid)
        for pid in self._lowered:
            self._schedule(pid, SCHED_NORMAL, 0, "a kthread")
        self._guest.write(UNBOUND_WORK, self._work_on)
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
        workers = tuple(f"kworker/{cpu}:" for cpu in self._cpus)
        for pid, comm in self._guest.threads("").items():
            if comm.startswith((*SERVANTS, *workers)):
                self._schedule(pid, SCHED_FIFO, SERVANT_PRIORITY, comm)

    def _prefer(self, decoys: list[int], cpus: list[int]) -> None:
        """Have the fair servers of some CPUs run decoys, and not the kthreads of their entries."""
        for cpu in cpus:
            for pid, comm in self._guest.threads(f"cpumap/{cpu}/").items():
                self._schedule(pid, SCHED_IDLE, 0, comm)
                self._lowered.append(pid)
        for pid in decoys:
            self._guest.calls.must("setpriority", PRIO_PROCESS, pid, NICEST)

    def _schedule(self, pid: int, policy: int, priority: int, what: str) -> None:
        param = struct.pack("<i", priority)
        result = self._guest.calls.raw("sched_setscheduler", pid, policy, param)
        if result.errno != ESRCH:  # a worker that was idle for long, or its entry's, has gone
            result.must(what)

    def _switch_off_servers(self, cpu: int) -> bool:
        """Have no deadline server run tasks of lower classes on a CPU; tell whether it worked.

        It takes CONFIG_DEBUG_FS, before 6.15 CONFIG_SCHED_DEBUG too.
        """
        off = True
        for server, gate in (("fair_server", FAIR_SERVER), ("ext_server", None)):
            there = self._write_if_there(f"/sys/kernel/debug/sched/{server}/cpu{cpu}/runtime", "0")
            if not there and gate and gate.holds(self._guest.machine.kernel.numbers):
                off = False
        return off

    def _write_if_there(self, path: str, text: str) -> bool:
        try:
            self._guest.write(path, text)
        except GuestError as error:
            if error.errno not in {ENOENT, EACCES}:  # debugfs refuses to make a file
                raise
            return False
        return True


def _bitmap(mask: int) -> str:
    """Write a mask of up to 64 bits as lib/bitmap.c reads it: 32 bits in a group, none too many."""
    return f"{mask >> 32:x},".lstrip("0,") + f"{mask & 0xFFFFFFFF:08x}"
