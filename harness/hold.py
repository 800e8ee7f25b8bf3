"""Keep an entry's kthread from running, and prove that it did not run.

A SCHED_FIFO spinner on the destination CPU. What would let the kthread through is switched off
(kernel/sched/rt.c: RT throttling; kernel/sched/deadline.c: the fair server, 6.12 on), and
ksoftirqd/N is put above the spinner, for a starved ksoftirqd keeps its CPU's softirqs from running
at all on older kernels (before d15121be7485, 6.5), RCU's among them. PREEMPT_RT has a kthread for
RCU's own work there, rcuc/N: without it no grace period ends (kernel/rcu/tree.c, rcu_cpu_kthread).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Self

from harness.errors import GuestError, LabError

if TYPE_CHECKING:
    from harness.steering import Steering

SCHED_FIFO = 1
SPINNER_PRIORITY, SOFTIRQ_PRIORITY = 50, 60
SIGKILL = 9
ENOENT = 2


class HoldBroken(LabError):
    """A consumer that was to be held ran all the same: no verdict on the kernel."""


class Hold:
    """While its `with` block runs, the kthread of an entry does not.

    Args:
        steering: whose entry it is; make the entry before (an update waits for its kthread).
        cpu: the entry's key.

    Raises:
        HoldBroken: at the end, if the kthread took frames in the meantime.
    """

    def __init__(self, steering: Steering, cpu: int) -> None:
        self._steering = steering
        self._guest = steering.guest
        self._cpu = cpu
        self._pid: int | None = None
        self._taken = 0

    def __enter__(self) -> Self:
        guest, cpu = self._guest, self._cpu
        guest.write("/proc/sys/kernel/sched_rt_runtime_us", "-1")
        for server in ("fair_server", "ext_server"):
            try:
                guest.write(f"/sys/kernel/debug/sched/{server}/cpu{cpu}/runtime", "0")
            except GuestError as error:
                if error.errno != ENOENT:
                    raise
        for name in (f"ksoftirqd/{cpu}", f"rcuc/{cpu}"):
            for pid, comm in guest.threads(name).items():
                priority = struct.pack("<i", SOFTIRQ_PRIORITY)
                guest.calls.must("sched_setscheduler", pid, SCHED_FIFO, priority, why=comm)
        others = struct.pack("<Q", ((1 << guest.cpus) - 1) & ~(1 << cpu))
        guest.calls.must("sched_setaffinity", 0, len(others), others, why="agent")
        spin = guest.calls.link.call
        self._pid = spin("spawn", "spin", [], cpu, SCHED_FIFO, SPINNER_PRIORITY)
        self._taken = self._steering.taken_on(cpu)
        return self

    def __exit__(self, *failed: object) -> None:
        taken = self._steering.taken_on(self._cpu)
        self._guest.calls.must("kill", self._pid or 0, SIGKILL)
        self._guest.calls.must("wait4", self._pid or 0, 0, 0, 0)
        if taken != self._taken and failed[0] is None:
            raise HoldBroken(
                f"the kthread on CPU {self._cpu} took {taken - self._taken} frames while it was "
                "held by a SCHED_FIFO spinner",
                remedy="see which servers the kernel has in /sys/kernel/debug/sched",
            )
