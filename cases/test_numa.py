"""Two NUMA nodes: a map lies where it is asked to, and its entries reach across."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

import pytest

from harness.agent.bpf import CpuMap, create_map
from harness.answers import Answers, facts_of
from harness.model.facts import parse_list
from harness.model.gates import CHARGED_APART
from harness.trace.events import CpumapEnqueue, CpumapKthread

if TYPE_CHECKING:
    from harness.casework import Casework

pytestmark = [pytest.mark.machine(cpus=4, nodes=2), pytest.mark.kconfig("NUMA")]
NUMA_NODE = 1 << 2
RLIMIT_NOFILE = 7
TABLES = 2 << 20
"""Pointers in the tables of all maps together, 16 MiB, if the maps are not too many for that."""
MOST_MAPS = 12_000
LARGEST_OF_SLABS = 4 << 10
"""Bytes: larger tables may be of pages of their own (bpf_map_area_alloc, kmalloc)."""
CPU_0 = struct.pack("<Q", 1)
OF_NODE = [struct.pack("<Q", mask) for mask in (0b0011, 0b1100)]
"""CPUs of each of two nodes, of four in all."""
SIZES = ("192", "256", "512", "1k", "2k")
"""What a `struct ptr_ring` and a `struct bpf_cpu_map_entry` may take."""
FOLD = "/proc/sys/vm/stat_refresh"
"""Writing it has every CPU hand in what it has counted (vmstat_refresh in mm/vmstat.c)."""
KTHREADS, STACK_KIB = 300, 16


def node_kib(lab: Casework, node: int, name: str) -> int:
    """Return a line of a node's meminfo."""
    lab.guest.write(FOLD, "1")
    text = lab.guest.read(f"/sys/devices/system/node/node{node}/meminfo")
    return int(re.findall(rf"{name}:\s+(\d+)", text)[0])


def used_kib(lab: Casework, table_bytes: int) -> list[int]:
    """Return what is taken of the memory that tables are of, by node; MemFree swings by MiBs."""
    if table_bytes > LARGEST_OF_SLABS:
        return [-node_kib(lab, node, "MemFree") for node in (0, 1)]
    return [node_kib(lab, node, "SUnreclaim") for node in (0, 1)]


@pytest.mark.proves(
    "cpu_map_alloc", "a NUMA node that is not online is EINVAL; without the flag it is not heeded"
)
def test_a_map_may_be_asked_for_on_a_node_that_is_there(lab: Casework) -> None:
    with Answers(lab) as ask:
        assert ask.facts.nodes == {0, 1}
        for node in (0, 1, 2, 63, 1024, (1 << 32) - 1):
            ask.create(map_flags=NUMA_NODE, numa_node=node)
            ask.create(map_flags=NUMA_NODE, numa_node=node, value_size=4)


@pytest.mark.proves("cpu_map_alloc", "its table of entries lies on the NUMA node asked for")
def test_the_map_lies_on_its_node(lab: Casework) -> None:
    """What else a map needs comes from the node of the CPU that makes it, whatever it asks for."""
    entries = facts_of(lab.guest).nr_cpus
    maps = min(TABLES // entries, MOST_MAPS)
    limit = struct.pack("<QQ", 3 * MOST_MAPS, 3 * MOST_MAPS)
    lab.guest.calls.must("prlimit64", 0, RLIMIT_NOFILE, limit, 0)
    for tid in lab.guest.own_threads():
        lab.guest.calls.must("sched_setaffinity", tid, len(CPU_0), CPU_0)
    before = used_kib(lab, entries * 8)
    taken = []
    for node in (0, 1):
        flags = {"flags": NUMA_NODE, "numa_node": node}
        for _ in range(maps):
            create_map(lab.guest.calls, max_entries=entries, **flags).must("BPF_MAP_CREATE")
        after = used_kib(lab, entries * 8)
        taken.append([now - was for was, now in zip(before, after, strict=True)])
        before = after
    tables_kib = maps * entries * 8 // 1024
    assert taken[0][0] - taken[1][0] > tables_kib * 0.8
    assert taken[1][1] - taken[0][1] > tables_kib * 0.8


@pytest.mark.proves(
    "cpu_map_enqueue", "frames of any CPU reach every other, on whatever node they are"
)
@pytest.mark.parametrize("producer", range(4))
def test_each_cpu_reaches_those_of_the_other_node(lab: Casework, producer: int) -> None:
    run = lab.steer(lab.cpus)
    run.receive_on(producer)
    lab.send(frames=50 * len(lab.cpus))
    books = lab.close()
    assert {r.producer for r in lab.records(CpumapEnqueue)} == {producer}
    assert [row.delivered for row in books.per_cpu] == [50] * len(lab.cpus)


@pytest.mark.proves("__cpu_map_entry_alloc", "a kthread is bound to its CPU")
def test_kthreads_run_on_the_cpus_of_their_entries(lab: Casework) -> None:
    lab.steer(lab.cpus)
    for pid, name in lab.guest.threads("cpumap/").items():
        (allowed,) = re.findall(
            r"Cpus_allowed_list:\s+(\S+)", lab.guest.read(f"/proc/{pid}/status")
        )
        assert name.startswith(f"cpumap/{allowed}/map:")
    lab.send(frames=400)
    lab.close()
    assert {r.kthread_cpu for r in lab.records(CpumapKthread) if r.processed} == set(lab.cpus)


@pytest.mark.proves("__cpu_map_entry_alloc", "a kthread's memory lies on the NUMA node of its CPU")
@pytest.mark.parametrize("node", [0, 1])
def test_a_kthread_lies_on_the_node_of_its_cpu(lab: Casework, node: int) -> None:
    cpu = min(parse_list(lab.guest.read(f"/sys/devices/system/node/node{node}/cpulist")))
    maps = [CpuMap(lab.guest.calls, max_entries=len(lab.cpus)) for _ in range(KTHREADS)]
    before = [node_kib(lab, n, "KernelStack") for n in (0, 1)]
    for cpumap in maps:
        cpumap.set(cpu, 1)
    taken = [node_kib(lab, n, "KernelStack") - was for n, was in enumerate(before)]
    assert taken[node] > KTHREADS * STACK_KIB * 0.9
    assert taken[1 - node] < KTHREADS * STACK_KIB * 0.1
    for cpumap in maps:
        cpumap.close()
    assert lab.wait_kthreads(0) == []


def charged_objects(lab: Casework, node: int) -> int:
    """Return how many objects of general sizes, charged to a cgroup, lie on a node."""
    found = 0
    for size in SIZES:
        text = lab.guest.read(f"/sys/kernel/slab/kmalloc-cg-{size}/objects")
        found += sum(int(count) for count in re.findall(rf"N{node}=(\d+)", text))
    return found


@pytest.mark.proves(
    "__cpu_map_entry_alloc", "an entry and its ring lie on the node of its CPU", since=CHARGED_APART
)
@pytest.mark.kconfig("SLUB_DEBUG", "MEMCG")
@pytest.mark.parametrize("node", [0, 1])
def test_an_entry_lies_on_the_node_of_its_cpu(lab: Casework, node: int) -> None:
    cpu = min(parse_list(lab.guest.read(f"/sys/devices/system/node/node{node}/cpulist")))
    for tid in lab.guest.own_threads():  # who makes it is on the other node
        lab.guest.calls.must("sched_setaffinity", tid, 8, OF_NODE[1 - node])
    maps = [CpuMap(lab.guest.calls, max_entries=len(lab.cpus)) for _ in range(KTHREADS)]
    before = charged_objects(lab, node)
    for cpumap in maps:
        cpumap.set(cpu, 1)
    assert charged_objects(lab, node) - before > 2 * KTHREADS * 0.9
    for cpumap in maps:
        cpumap.close()
    assert lab.wait_kthreads(0) == []
