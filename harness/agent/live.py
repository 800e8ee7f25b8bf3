"""Frames made up in the guest, on a CPU of one's choice (BPF_F_TEST_XDP_LIVE_FRAMES, 5.18)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.agent.bpf import start_live
from harness.agent.syscalls import Syscalls
from harness.errors import TrafficError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.agent.bpf import Map, Program
    from harness.agent.syscalls import Started

FIRST_TASK, TASKS = 2, 31
"""The agent's threads that live runs have, up to that of veth pairs (guest/agent/task.c)."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """One run of a program on live frames.

    Attributes:
        program: `live` of guest/bpf/steer.bpf.c.
        frame: the frame that is repeated.
        first: number of the first one.
        repeat: how many.
        ifindex: of the device that they come in by.
    """

    program: Program
    frame: bytes
    first: int
    repeat: int
    ifindex: int


def run_live(
    calls: Syscalls,
    numbers: Map,
    runs: Mapping[int, LiveRun],
    *,
    batch: int,
    deadline_s: float,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Make live runs on several CPUs at the same time and return when all are over.

    A CPU's frames come in batches, each flushed at its end: until then no kthread is woken for it.

    Args:
        calls: the agent.
        numbers: where the program finds the next number, by CPU.
        runs: by CPU.
        batch: frames in a batch, 256 at most.
        deadline_s: how long they may take.
        meanwhile: done when all have begun.

    Raises:
        GuestError: the kernel refuses: EINVAL before 5.18, E2BIG for a larger batch.
        TrafficError: fewer frames were made than asked for.
    """
    if len(runs) > TASKS - FIRST_TASK:
        raise UserError(f"live runs on {len(runs)} CPUs: {TASKS - FIRST_TASK} at most at a time")
    under_way: list[Started] = []
    for task, (cpu, run) in enumerate(runs.items(), FIRST_TASK):
        own = Syscalls(calls.link, task=task)
        mask = (1 << cpu).to_bytes(16, "little")
        own.must("sched_setaffinity", 0, len(mask), mask, why=f"live run on CPU {cpu}")
        numbers.update(cpu, struct.pack("<I", run.first)).must("set the number of a live frame")
        how = {"ifindex": run.ifindex, "repeat": run.repeat, "batch": batch}
        under_way.append(start_live(own, run.program, run.frame, **how))
    meanwhile()
    for started in under_way:
        calls.collect(started, deadline_s=deadline_s).must("BPF_PROG_TEST_RUN of live frames")
    for cpu, run in runs.items():
        _, value = numbers.lookup(cpu)
        made = int.from_bytes(value, "little") - run.first
        if made != run.repeat:
            raise TrafficError(f"CPU {cpu} made {made} of {run.repeat} live frames")
