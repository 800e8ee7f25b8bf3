"""What goes leaves nothing behind: not an object of the kernel's, however small."""

from __future__ import annotations

import errno
import re
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from harness.agent.bpf import CpuMap
from harness.answers import Answers
from harness.entries import load_verdicts
from harness.errors import GuestError
from harness.model.gates import PROGRAM_ERRNO, UPDATE_WAITS
from harness.trace.events import XdpAction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.casework import Casework

EAGAIN, ENOMEM = 11, 12
ROUNDS = 500
FEW = ROUNDS // 3
"""Objects that come and go for other reasons."""
PERCPU = "Percpu, 128 bytes of each CPU"
CACHE = re.compile(r"^(kmalloc-\S+) +(\d+)", re.MULTILINE)


def slabs(lab: Casework) -> Counter[str]:
    """Return how many objects of each general size are in use (CONFIG_SLUB_DEBUG)."""
    for name, _ in CACHE.findall(lab.guest.read("/proc/slabinfo")):
        # those that are free in a CPU's own slabs count as used, so have them given back
        lab.guest.write(f"/sys/kernel/slab/{name}/shrink", "1")
    return Counter({name: int(n) for name, n in CACHE.findall(lab.guest.read("/proc/slabinfo"))})


def objects(lab: Casework) -> Counter[str]:
    """Return how much is in use: objects of each general size, and per-CPU memory.

    Without CONFIG_SLUB_DEBUG the kernel does not tell its objects: then per-CPU memory alone.
    """
    try:
        used = slabs(lab)
    except GuestError as error:
        if error.errno != errno.ENOENT:
            raise
        used = Counter()
    percpu = re.search(r"^Percpu: +(\d+)", lab.guest.read("/proc/meminfo"), re.MULTILINE)
    assert percpu
    used[PERCPU] = (int(percpu[1]) << 10) // len(lab.cpus) // 128
    return used


def grown(lab: Casework, before: Counter[str]) -> dict[str, int]:
    """Wait until no more than a few objects are left that were not there before; return others."""
    more: dict[str, int] = {}

    def is_back() -> bool:
        now = objects(lab)
        more.clear()
        more.update({name: now[name] - before[name] for name in now})
        return max(more.values()) < FEW

    lab.wait_for(is_back)
    return {name: count for name, count in more.items() if count >= FEW}


@contextmanager
def no_more_threads(lab: Casework) -> Iterator[None]:
    """Have every creation of a thread fail with EAGAIN (copy_process, kernel/fork.c)."""
    path = "/proc/sys/kernel/threads-max"
    limit = lab.guest.read(path)
    lab.guest.write(path, "1")
    try:
        yield
    finally:
        lab.guest.write(path, limit)


def rounds(lab: Casework) -> Iterator[int]:
    """Count to `ROUNDS`; what ends asynchronously is let end now and then."""
    for number in range(ROUNDS):
        yield number
        if number % 50 == 49:
            lab.wait_kthreads(0)


@pytest.mark.proves(
    "__cpu_map_entry_free", "an entry that goes is freed to the last object", since=UPDATE_WAITS
)
def test_entries_that_go_leave_no_object(lab: Casework) -> None:
    cpumap = CpuMap(lab.guest.calls, max_entries=len(lab.cpus))
    program = load_verdicts(lab.guest, [XdpAction.PASS])
    before = objects(lab)
    for number in rounds(lab):
        cpumap.set(number % len(lab.cpus), 64, program)
        cpumap.remove(number % len(lab.cpus))
    assert grown(lab, before) == {}
    cpumap.close()


@pytest.mark.proves("__cpu_map_entry_alloc", "what a refused program has cost is given back")
def test_refused_updates_leave_no_object(lab: Casework) -> None:
    cpumap = CpuMap(lab.guest.calls, max_entries=len(lab.cpus))
    value = cpumap.value(64)[:4] + (999).to_bytes(4, "little")  # no open descriptor
    before = objects(lab)
    for number in rounds(lab):
        assert cpumap.update(number % len(lab.cpus), value).errno
    assert grown(lab, before) == {}
    cpumap.close()


@pytest.mark.proves(
    "__cpu_map_entry_alloc",
    "without a kthread an update fails as its creation did",
    since=PROGRAM_ERRNO,
)
@pytest.mark.proves(
    "__cpu_map_entry_alloc", "without a kthread an update is ENOMEM", until=PROGRAM_ERRNO
)
def test_updates_that_get_no_kthread_leave_no_object(lab: Casework) -> None:
    cpumap = CpuMap(lab.guest.calls, max_entries=len(lab.cpus))
    program = load_verdicts(lab.guest, [XdpAction.PASS])
    prog_id, value = program.id, cpumap.value(64, program)
    expected = EAGAIN if PROGRAM_ERRNO.holds(lab.kernel) else ENOMEM
    before = objects(lab)
    with no_more_threads(lab):
        for number in rounds(lab):
            assert cpumap.update(number % len(lab.cpus), value).errno == expected
    assert grown(lab, before) == {}
    program.close()
    assert Answers(lab).wait_program_gone(prog_id)
    cpumap.close()


@pytest.mark.proves("cpu_map_free", "a map that is closed is freed to the last object")
def test_maps_that_are_closed_leave_no_object(lab: Casework) -> None:
    before = objects(lab)
    for _ in rounds(lab):
        CpuMap(lab.guest.calls, max_entries=len(lab.cpus)).close()
    assert grown(lab, before) == {}
