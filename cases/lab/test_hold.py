"""A hold keeps kthreads of cpumap from running, and keeps nobody else waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.casework import Casework
from harness.machine.topology import Topology

if TYPE_CHECKING:
    from harness.lab import Lab

ALL_CPUS_WORK = "/proc/sys/vm/stat_refresh"
"""Writing it queues work for each CPU, and waits for it (schedule_on_each_cpu)."""


def test_work_for_a_held_cpu_is_done(workshop: Lab, a_kernel: str) -> None:
    with workshop.open(a_kernel, Topology()) as guest:
        case = Casework(guest)
        run = case.steer(3)
        with case.hold(3):
            case.send(frames=50)
            run.wait_offered()
            guest.write(ALL_CPUS_WORK, "1")
            assert run.taken_on(3) == 0
        assert case.close().delivered == 50
