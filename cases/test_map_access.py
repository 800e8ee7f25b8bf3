"""Who may do what with a cpumap, through which descriptor, and what it costs."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from harness.agent.bpf import (
    MAP_GET_FD_BY_ID,
    MAP_TYPE_ARRAY_OF_MAPS,
    MAP_TYPE_HASH_OF_MAPS,
    OBJ_GET,
    OBJ_PIN,
    Map,
    bpf,
    create_map,
)
from harness.agent.btf import VMLINUX
from harness.agent.rights import CAP_BPF, CAP_SYS_ADMIN, drop_capabilities, limit_locked_memory
from harness.agent.syscalls import Buffer, Syscalls
from harness.answers import UNPRIVILEGED, Answers
from harness.errors import GuestError
from harness.model import gates
from harness.model.syscall import BPF_F_RDONLY, BPF_F_WRONLY, Task, array_of_maps_update, map_use
from harness.twin import BATCHES, Twin

if TYPE_CHECKING:
    from harness.casework import Casework

PAGE = 4096
LEAST = 128
"""Bytes that a struct bpf_map has at least, whatever the configuration."""
EINVAL, EPERM = 22, 1
PIN = Buffer(b"/sys/fs/bpf/cpus\0")


def use_all(cpumap: Twin) -> None:
    """Try every command on a descriptor whose map has an entry 0."""
    cpumap.lookup(0)
    cpumap.lookup(1)
    cpumap.update(1, 64)
    cpumap.delete(1)
    cpumap.update(0, 0)
    cpumap.update(0, 32)
    cpumap.update(9, 32)
    cpumap.update(None)
    cpumap.update(0, 32, flags=4)
    for flags in (1, 4, 5, 8, 1 << 32):
        cpumap.lookup(0, flags)
    cpumap.next_key(None)
    cpumap.next_key(0)
    cpumap.lookup_and_delete(0)
    cpumap.map_memory()
    for name in BATCHES:
        cpumap.batch(name)


@pytest.mark.proves(
    "cpu_map_ops", "a descriptor to read only cannot write, one to write only cannot read: EPERM"
)
@pytest.mark.proves("cpu_map_ops", "a map cannot be mapped into memory")
def test_descriptors_that_may_read_or_write_only(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        for flags in (BPF_F_RDONLY, BPF_F_WRONLY, 0):
            cpumap.update(0, 16)
            use_all(cpumap.reopen(flags))
            cpumap.lookup(0)
        both = struct.pack("<III", cpumap.map_id, 0, BPF_F_RDONLY | BPF_F_WRONLY)
        assert bpf(ask.calls, MAP_GET_FD_BY_ID, both).errno == EINVAL


@pytest.mark.proves("cpu_map_ops", "a frozen map cannot be written by anyone; programs go on")
def test_a_frozen_map_is_read_only(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(0, 16)
        reader, writer = cpumap.reopen(BPF_F_RDONLY), cpumap.reopen(BPF_F_WRONLY)
        assert cpumap.fdinfo()["frozen"] == "0"
        cpumap.freeze()
        cpumap.freeze()
        reader.freeze()
        assert cpumap.fdinfo()["frozen"] == "1"
        for descriptor in (cpumap, reader, writer, cpumap.reopen()):
            use_all(descriptor)
        ask.redirects(cpumap, 0)  # programs go on


@pytest.mark.proves(
    "cpu_map_ops", "freezing takes the right to write", since=gates.FREEZE_ASKS_RIGHTS
)
@pytest.mark.proves(
    "cpu_map_ops", "whoever has a descriptor may freeze the map", until=gates.FREEZE_ASKS_RIGHTS
)
@pytest.mark.parametrize("flags", [BPF_F_RDONLY, BPF_F_WRONLY])
def test_who_may_freeze(lab: Casework, flags: int) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(0, 16)
        cpumap.reopen(flags).freeze()
        use_all(cpumap)


@pytest.mark.proves("cpu_map_free", "a pinned map outlives its descriptors")
def test_a_pinned_map_outlives_its_descriptors(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(0, 16)
        bpf(ask.calls, OBJ_PIN, struct.pack("<QI", 0, cpumap.fd), {0: PIN}).must("pin")
        ask.close(cpumap.fd)
        ask.settle()
        for flags in (BPF_F_RDONLY, BPF_F_WRONLY, 0):
            again = bpf(ask.calls, OBJ_GET, struct.pack("<QII", 0, 0, flags), {0: PIN}).must("get")
            use_all(cpumap.other(again.value, flags))
        ask.settle()
        ask.calls.must("unlink", PIN)


@pytest.mark.proves("cpu_map_free", "a map lives on while a program uses it")
def test_a_map_lives_while_a_program_uses_it(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(0, 16)
        ask.redirector(cpumap)
        ask.close(cpumap.fd)
        ask.settle()
        cpumap.reopen().lookup(0)


@pytest.mark.proves(
    "cpu_map_ops", "in a map of maps it may take the place of one that differs in max_entries only"
)
@pytest.mark.proves("cpu_map_free", "a map lives on in a map of maps")
@pytest.mark.parametrize("kind", [MAP_TYPE_ARRAY_OF_MAPS, MAP_TYPE_HASH_OF_MAPS])
def test_maps_of_cpumaps(lab: Casework, kind: int) -> None:
    """An inner map may differ from the first in max_entries only, and lives on in the outer one."""
    with Answers(lab) as ask:
        node = {"map_flags": 4}
        inner = [
            ask.cpumap(),
            ask.cpumap(max_entries=min(64, ask.facts.nr_cpus)),
            ask.cpumap(value_size=4),
            ask.cpumap(**node),
        ]
        for like in inner:
            outer = ask.map_of_maps([], like=like, type=kind)
            for key, one in enumerate(inner):
                says = array_of_maps_update(like.model.map.attr, one.model.map.attr)
                answer = outer.update(key, struct.pack("<I", one.fd)).errno
                ask.check(
                    f"{one.model.map.attr} into maps like {like.model.map.attr}", says, answer
                )
        inner[0].update(0, 16)
        ask.close(inner[0].fd)
        ask.settle()


@pytest.mark.proves(
    "cpu_map_mem_usage",
    "each of max_entries counts 8 bytes, entries and rings nothing",
    since=gates.MEM_USAGE,
)
@pytest.mark.proves(
    "cpu_map_mem_usage",
    "memory is told in whole pages, entries and rings not counted",
    until=gates.MEM_USAGE,
)
@pytest.mark.parametrize("max_entries", [1, 4, 511, 512, 513, 8192])
def test_memory_that_is_told(lab: Casework, max_entries: int) -> None:
    """What fdinfo tells is the map's own memory; entries never count."""
    with Answers(lab) as ask:
        max_entries = min(max_entries, ask.facts.nr_cpus)
        for value_size in (4, 8):
            cpumap = ask.cpumap(max_entries=max_entries, value_size=value_size)
            one = ask.cpumap(max_entries=1, value_size=value_size)
            assert int(one.fdinfo()["memlock"]) > LEAST
            for _ in range(2):
                told = int(cpumap.fdinfo()["memlock"]) - int(one.fdinfo()["memlock"])
                model = cpumap.model.map.cpu_map_mem_usage() - one.model.map.cpu_map_mem_usage()
                ask.check(f"memlock of {max_entries} over that of 1", (model,), (told,))
                cpumap.update(0)


@pytest.mark.proves(
    "cpu_map_mem_usage",
    "the map itself counts as sizeof(struct bpf_cpu_map)",
    since=gates.MEM_USAGE,
)
@pytest.mark.proves(
    "cpu_map_mem_usage",
    "memory is told in whole pages, entries and rings not counted",
    until=gates.MEM_USAGE,
)
def test_memory_that_is_told_to_the_byte(lab: Casework) -> None:
    try:
        lab.guest.calls.link.call("read", VMLINUX, 1)
    except GuestError:
        pytest.skip("this kernel has no BTF to say how large a struct bpf_cpu_map is")
    with Answers(lab, exact_memory=True) as ask:
        cpumap = ask.cpumap(max_entries=4)
        told = int(cpumap.fdinfo()["memlock"])
        ask.check("memlock", (cpumap.model.map.cpu_map_mem_usage(),), (told,))


@pytest.mark.proves("cpu_map_alloc", "fdinfo tells the sizes and flags that the map was made with")
def test_what_a_map_says_of_itself(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap(max_entries=7, value_size=4, map_flags=4)
        told = cpumap.fdinfo()
        fields = ("map_type", "key_size", "value_size", "max_entries", "map_flags", "map_id")
        assert [int(told[name], 0) for name in fields] == [16, 4, 4, 7, 4, cpumap.map_id]


@pytest.mark.proves(
    "cpu_map_alloc",
    "a task without CAP_BPF is EPERM, after a wrong attribute is EINVAL",
    since=gates.RIGHTS_CHECKED_IN_CREATE,
)
@pytest.mark.proves(
    "cpu_map_alloc",
    "a task without CAP_BPF is EPERM, before anything is looked at",
    until=gates.RIGHTS_CHECKED_IN_CREATE,
)
@pytest.mark.proves(
    "cpu_map_ops",
    "a task without CAP_BPF may use a descriptor it was given",
    since=gates.DESCRIPTOR_SUFFICES,
)
@pytest.mark.proves(
    "cpu_map_ops",
    "a task without CAP_BPF may use no descriptor, unless the sysctl lets it",
    until=gates.DESCRIPTOR_SUFFICES,
)
@pytest.mark.parametrize("disabled", [0, 2])
def test_a_task_without_cap_bpf(lab: Casework, disabled: int) -> None:
    lab.guest.write(UNPRIVILEGED, str(disabled))
    nobody = Task(cap_bpf=False)
    calls = Syscalls(lab.guest.calls.link, task=2)
    drop_capabilities(calls, CAP_BPF, CAP_SYS_ADMIN)
    with Answers(lab) as ask:
        for asked in ({}, {"value_size": 5}, {"max_entries": 0}, {"max_entries": 1 << 20}):
            ask.create(nobody, calls, **asked)
        ask.create(nobody, calls, map_extra=1)
        ask.create(nobody, calls, map_flags=4, numa_node=99)
        cpumap = ask.cpumap()
        cpumap.update(0, 16)
        given = Map.of(ask.calls, cpumap.fd)
        given.calls = calls
        says = map_use(ask.facts, nobody)
        ask.check("lookup without CAP_BPF", says, given.lookup(0)[0].errno)
        ask.check("update without CAP_BPF", says, given.update(0, struct.pack("<II", 16, 0)).errno)
        by_id = bpf(calls, MAP_GET_FD_BY_ID, struct.pack("<I", cpumap.map_id)).errno
        ask.check("descriptor by id without CAP_SYS_ADMIN", EPERM, by_id)


@pytest.mark.proves("cpu_map_alloc", "CAP_BPF or CAP_SYS_ADMIN will do")
@pytest.mark.parametrize("dropped", [CAP_BPF, CAP_SYS_ADMIN])
def test_either_capability_will_do(lab: Casework, dropped: int) -> None:
    calls = Syscalls(lab.guest.calls.link, task=2)
    drop_capabilities(calls, dropped)
    with Answers(lab) as ask:
        ask.create(None, calls)
        ask.create(None, calls, value_size=5)


@pytest.mark.proves("cpu_map_alloc", "RLIMIT_MEMLOCK is not heeded", since=gates.MEMORY_BY_MEMCG)
@pytest.mark.proves(
    "cpu_map_alloc",
    "the map is charged to RLIMIT_MEMLOCK in whole pages: EPERM beyond",
    until=gates.MEMORY_BY_MEMCG,
)
def test_locked_memory(lab: Casework) -> None:
    """5.10 charges whole pages to the user; later kernels heed no limit."""
    with Answers(lab) as ask:
        limit = 0
        limit_locked_memory(ask.calls, limit)
        while create_map(ask.calls, max_entries=1).errno == EPERM and limit < 8192 * PAGE:
            limit += PAGE  # until it covers what the agent's other maps and programs take
            limit_locked_memory(ask.calls, limit)
        assert bool(limit) != gates.MEMORY_BY_MEMCG.holds(ask.facts.kernel)
        left = 4 * PAGE
        limit_locked_memory(ask.calls, limit + left)
        for max_entries in (512, 513, 513, 513, 512, 1, 1, 64):
            cpumap = ask.create(Task(memlock=left), max_entries=min(max_entries, ask.facts.nr_cpus))
            if cpumap:
                left -= cpumap.model.map.cpu_map_mem_usage()
