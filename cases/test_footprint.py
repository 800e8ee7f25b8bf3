"""What goes leaves nothing behind: not an object of the kernel's, however small."""

from __future__ import annotations

import errno
import re
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from harness.agent.bpf import CpuMap, create_map
from harness.agent.rights import limit_open_files
from harness.answers import Answers, facts_of
from harness.entries import load_verdicts
from harness.errors import GuestError, TrafficError
from harness.model.datapath import CPUMAP_BATCH
from harness.model.gates import CHARGED_APART, MEMORY_BY_MEMCG, PROGRAM_ERRNO, UPDATE_WAITS
from harness.patience import wait_until
from harness.trace.events import CpumapKthread, XdpAction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.casework import Casework

E2BIG, EAGAIN, ENOMEM = 7, 11, 12
MEMBARRIER_CMD_GLOBAL = 1
ROUNDS = 500
FEW = ROUNDS // 3
"""Objects that come and go for other reasons."""
SERIES = 12
PAGED_SPAN = 6
"""Series over which a growth shows, where pages are counted: what others have of these is as much
as what one series leaks."""
AT_ONCE, PAGED_AT_ONCE = 50, 5
"""Entries that may be ending at a time. Each has a kworker wait; of these there are soon more than
ever on a busy host, and where pages are counted one is 10 KiB."""
SOON_S, LATE_S = 1.0, 30.0
"""How long what is freed later is waited for after a series, and after the last."""
SKB_BYTES = 256
MAPS = 1000
POINTER_BYTES = 8
OTHERS = 100 << 10
"""Bytes that come and go for other reasons."""
SPARSE = 2000
"""Frames a second, of which the kthreads mostly find one."""
MOST = 40
"""Times that frames are sent before a host that lets them gather proves nothing."""
SPARED = 12_000
"""Skbs: 3 MiB, of which half would show where only pages are counted."""
PERCPU, SLABS = "Percpu, 128 bytes of each CPU", "slabs, 128 bytes"
CHARGED = "kmalloc-cg-"
SIZES = ("8", "16", "32", "64", "96", "128", "192", "256", "512", "1k", "2k", "4k", "8k")
GENERAL = tuple(f"{prefix}{size}" for prefix in ("kmalloc-", CHARGED) for size in SIZES)
"""The caches of general sizes (mm/slab_common.c)."""
CACHE = re.compile(r"^(kmalloc-\S+) +(\d+)", re.MULTILINE)


def shrink(lab: Casework) -> None:
    """Have the caches give back what is free in each CPU's own slabs, for it counts as used."""
    for name in GENERAL:
        try:
            lab.guest.write(f"/sys/kernel/slab/{name}/shrink", "1")
        except GuestError as error:
            if error.errno != errno.ENOENT:  # without CONFIG_MEMCG, or before 5.14
                raise


def slabs(lab: Casework) -> Counter[str]:
    """Return how many objects of each general size are in use (CONFIG_SLUB_DEBUG)."""
    shrink(lab)
    return Counter({name: int(n) for name, n in CACHE.findall(lab.guest.read("/proc/slabinfo"))})


def objects(lab: Casework) -> Counter[str]:
    """Return how much is in use: objects of each general size, and per-CPU memory.

    Without CONFIG_SLUB_DEBUG the kernel does not tell its objects, but their pages.
    """
    try:
        used = slabs(lab)
    except GuestError as error:
        if error.errno != errno.ENOENT:
            raise
        used = Counter({SLABS: meminfo_bytes(lab, "SUnreclaim") // 128})
    used[PERCPU] = meminfo_bytes(lab, "Percpu") // lab.guest.cpus // 128
    return used


def meminfo_bytes(lab: Casework, name: str) -> int:
    """Return a line of /proc/meminfo, in bytes."""
    found = re.search(rf"^{name}: +(\d+) kB", lab.guest.read("/proc/meminfo"), re.MULTILINE)
    assert found
    return int(found[1]) << 10


def skbs(lab: Casework) -> int:
    """Return how many skbs there are, not their data; without CONFIG_SLUB_DEBUG as all slabs."""
    try:
        lab.guest.write("/sys/kernel/slab/skbuff_head_cache/shrink", "1")
        told = lab.guest.read("/proc/slabinfo")
    except GuestError as error:
        if error.errno != errno.ENOENT:
            raise
        return meminfo_bytes(lab, "SUnreclaim") // SKB_BYTES
    found = re.search(r"^skbuff_head_cache +(\d+)", told, re.MULTILINE)
    assert found
    return int(found[1])


def leak(lab: Casework, once: Callable[[int], object]) -> dict[str, int]:
    """Do something `ROUNDS` times, until such series leave nothing behind; return what they do.

    What a kernel keeps for later it has after the first series; a leak grows with each.
    """
    left: dict[str, int] = {}
    levels = [objects(lab)]
    span, at_once = (PAGED_SPAN, PAGED_AT_ONCE) if SLABS in levels[0] else (1, AT_ONCE)

    def nothing_left() -> bool:
        more = objects(lab) - levels[-span]
        left.clear()
        left.update((name, count) for name, count in more.items() if count >= FEW * span)
        return not left

    for series in range(1, SERIES + 1):
        for number in range(ROUNDS):
            once(number)
            if number % at_once == at_once - 1:
                lab.wait_kthreads(0)  # what ends asynchronously is let end now and then
        limit = LATE_S if series == SERIES else SOON_S
        if len(levels) >= span and wait_until(nothing_left, limit * lab.guest.machine.pace):
            break
        levels.append(objects(lab))
    return left


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


@pytest.mark.proves("__cpu_map_entry_free", "an entry that goes is freed to the last object")
@pytest.mark.proves("put_cpu_map_entry", "the last reference to go frees the entry")
def test_entries_that_go_leave_no_object(lab: Casework) -> None:
    cpumap = CpuMap(lab.guest.calls, max_entries=len(lab.cpus))
    program = load_verdicts(lab.guest, [XdpAction.PASS])

    def come_and_go(number: int) -> None:
        cpumap.set(number % len(lab.cpus), 64, program)
        if not UPDATE_WAITS.holds(lab.kernel):
            lab.wait_asleep()  # an entry whose kthread has not begun is leaked (CVE-2023-53441)
        cpumap.remove(number % len(lab.cpus))

    assert leak(lab, come_and_go) == {}
    cpumap.close()


@pytest.mark.proves("__cpu_map_entry_alloc", "what a refused program has cost is given back")
def test_refused_updates_leave_no_object(lab: Casework) -> None:
    cpumap = CpuMap(lab.guest.calls, max_entries=len(lab.cpus))
    value = cpumap.value(64)[:4] + (999).to_bytes(4, "little")  # no open descriptor

    def be_refused(number: int) -> None:
        assert cpumap.update(number % len(lab.cpus), value).errno

    assert leak(lab, be_refused) == {}
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

    def be_refused(number: int) -> None:
        assert cpumap.update(number % len(lab.cpus), value).errno == expected

    with no_more_threads(lab):
        assert leak(lab, be_refused) == {}
    program.close()
    assert Answers(lab).wait_program_gone(prog_id)
    cpumap.close()


@pytest.mark.proves("cpu_map_alloc", "what a map that is refused has cost is given back")
def test_refused_maps_leave_no_object(lab: Casework) -> None:
    too_many = facts_of(lab.guest).nr_cpus + 1

    def be_refused(_: int) -> None:
        assert create_map(lab.guest.calls, max_entries=too_many).errno == E2BIG

    assert leak(lab, be_refused) == {}


@pytest.mark.proves("cpu_map_alloc", "its array has a pointer for each of max_entries, no more")
def test_the_array_of_a_map_takes_its_entries_and_no_more(lab: Casework) -> None:
    calls, most = lab.guest.calls, facts_of(lab.guest).nr_cpus
    entries = min(512, 1 << most.bit_length() - 1)  # an array that fits a size of the slabs
    maps: list[CpuMap] = []

    def cost(max_entries: int) -> int:
        before = meminfo_bytes(lab, "SUnreclaim") + meminfo_bytes(lab, "VmallocUsed")
        maps.extend(CpuMap(calls, max_entries=max_entries) for _ in range(MAPS))
        return meminfo_bytes(lab, "SUnreclaim") + meminfo_bytes(lab, "VmallocUsed") - before

    limit_open_files(calls, 4 * MAPS)
    last = calls.must("dup2", 0, 4 * MAPS - 1).value  # the table of files grows now
    cost(entries)  # into what is free in slabs
    more = cost(entries) - cost(1)
    for each in maps:
        each.close()
    calls.must("close", last)
    arrays = MAPS * (entries - 1) * POINTER_BYTES
    assert 0.75 * arrays - OTHERS < more < 1.5 * arrays + OTHERS


@pytest.mark.proves("cpu_map_free", "a map that is closed is freed to the last object")
@pytest.mark.kconfig("MEMBARRIER")
def test_maps_that_are_closed_leave_no_object(lab: Casework) -> None:
    """The end of a map waits for a grace period in a kworker of its own.

    If they gather, each series has more of these at a time than any before, and the kernel keeps
    them: 10 KiB each, where pages are counted.
    """
    calls, entries = lab.guest.calls, min(64, facts_of(lab.guest).nr_cpus)

    def come_and_go(number: int) -> None:
        CpuMap(calls, max_entries=entries).close()
        if number % 10 == 9:
            calls.must("membarrier", MEMBARRIER_CMD_GLOBAL, 0, 0, why="a grace period")

    assert leak(lab, come_and_go) == {}


@pytest.mark.proves(
    "__cpu_map_entry_alloc",
    "an entry and its ring are charged to the map's memory cgroup",
    since=CHARGED_APART,
)
def test_entries_are_charged(lab: Casework) -> None:
    try:
        before = slabs(lab)
    except GuestError:
        pytest.skip("this kernel has no /proc/slabinfo (CONFIG_SLUB_DEBUG)")
    if not any(name.startswith(CHARGED) for name in before):
        pytest.skip("this kernel has no memory cgroups (CONFIG_MEMCG)")
    maps = [CpuMap(lab.guest.calls, max_entries=len(lab.cpus)) for _ in range(FEW)]
    before = slabs(lab)
    for cpumap in maps:
        cpumap.set(0, 1)
    more = slabs(lab) - before
    assert sum(more[name] for name in more if name.startswith(CHARGED)) >= 2 * len(maps)
    for cpumap in maps:
        cpumap.close()


CGROUPS = "/tmp/cgroups"
PERCPU_ARRAY = 6
"""BPF_MAP_TYPE_PERCPU_ARRAY."""
FROM_BOOT = 4096
"""Pieces of per-CPU memory: more than there is room for in the chunk that is there from boot on, of
which nothing is charged to anybody (pcpu_alloc_first_chunk in mm/percpu.c)."""
BULK = 8 * 8
"""Bytes: a bulk queue is eight pointers, and more."""


def percpu_bytes(lab: Casework) -> int:
    """Return the per-CPU memory that is charged to the lab's cgroup."""
    found = re.search(r"^percpu (\d+)", lab.guest.read(f"{CGROUPS}/lab/memory.stat"), re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.kconfig("MEMCG")
@pytest.mark.proves(
    "__cpu_map_entry_alloc",
    "its bulk queues are charged to the map's memory cgroup",
    since=MEMORY_BY_MEMCG,
)
def test_bulk_queues_are_charged(lab: Casework) -> None:
    guest, root = lab.guest, CGROUPS.encode()
    guest.must_own("agent to put into a cgroup")
    guest.calls.must("mkdir", root + b"\0", 0o755)
    guest.calls.must("mount", b"cgroup2\0", root + b"\0", b"cgroup2\0", 0, 0)
    guest.write(f"{CGROUPS}/cgroup.subtree_control", "+memory")
    guest.calls.must("mkdir", root + b"/lab\0", 0o755)
    fill = create_map(guest.calls, type=PERCPU_ARRAY, value_size=BULK, max_entries=FROM_BOOT)
    fill.must("BPF_MAP_CREATE")
    guest.write(f"{CGROUPS}/lab/cgroup.procs", "0")  # whoever writes it: the agent
    maps = [CpuMap(guest.calls, max_entries=len(lab.cpus)) for _ in range(FEW)]
    before, bulks = percpu_bytes(lab), len(maps) * len(lab.cpus) * BULK
    for cpumap in maps:
        cpumap.set(0, 1)
    lab.wait_for(lambda: percpu_bytes(lab) - before >= bulks)
    assert percpu_bytes(lab) - before >= bulks
    guest.write(f"{CGROUPS}/cgroup.procs", "0")
    for cpumap in maps:
        cpumap.close()


@pytest.mark.proves("cpu_map_kthread_run", "for a batch it takes no more skbs than it has frames")
def test_a_small_batch_takes_few_skbs(lab: Casework) -> None:
    run = lab.steer(lab.cpus, socket=False)

    def send() -> int:
        """Send some frames, and return how many skbs more full batches would have taken so far."""
        run.send([run.flow(500)], rate=SPARSE)
        assert run.wait_rest()
        batches = [batch.processed for batch in lab.records(CpumapKthread) if batch.processed]
        return sum(CPUMAP_BATCH - frames for frames in batches)

    first = send()
    before = skbs(lab)
    if not any(send() - first >= SPARED for _ in range(MOST)):
        raise TrafficError("the kthreads found too many frames at a time", remedy="try again")
    lab.wait_for(lambda: skbs(lab) - before < SPARED / 2)
    assert skbs(lab) - before < SPARED / 2
