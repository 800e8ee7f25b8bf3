"""Which cpumaps can be made, and with what errno the others are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.answers import Answers

if TYPE_CHECKING:
    from harness.casework import Casework

NUMA_NODE = 1 << 2
UINT_MAX = 0xFFFFFFFF


@pytest.mark.proves("cpu_map_alloc", "a key has 4 bytes, a value 4 or 8: all else is EINVAL")
def test_key_and_value_sizes(lab: Casework) -> None:
    with Answers(lab) as ask:
        for key_size in (0, 1, 2, 3, 5, 8, UINT_MAX):
            ask.create(key_size=key_size)
        for value_size in (0, 1, 3, 4, 5, 6, 7, 8, 9, 12, 16, UINT_MAX):
            ask.create(value_size=value_size)


@pytest.mark.proves("cpu_map_alloc", "max_entries is 1 to NR_CPUS: 0 is EINVAL, more is E2BIG")
def test_max_entries(lab: Casework) -> None:
    with Answers(lab) as ask:
        limit = ask.facts.nr_cpus
        for max_entries in (0, 1, 2, limit - 1, limit, limit + 1, UINT_MAX):
            ask.create(max_entries=max_entries)
            ask.create(max_entries=max_entries, value_size=4)


@pytest.mark.proves("cpu_map_alloc", "BPF_F_NUMA_NODE is its only flag: any other is EINVAL")
def test_flags(lab: Casework) -> None:
    """BPF_F_NUMA_NODE alone is a cpumap's; every other is refused, with it or without."""
    with Answers(lab) as ask:
        for bit in range(32):
            ask.create(map_flags=1 << bit)
            ask.create(map_flags=1 << bit | NUMA_NODE)
        ask.create(map_flags=(1 << 3) | (1 << 4))


@pytest.mark.proves(
    "cpu_map_alloc", "a NUMA node that is not online is EINVAL; without the flag it is not heeded"
)
def test_numa_node(lab: Casework) -> None:
    with Answers(lab) as ask:
        for node in (0, 1, 63, 1024, 99999, UINT_MAX - 1):
            ask.create(map_flags=NUMA_NODE, numa_node=node)
            ask.create(numa_node=node)  # not heeded without the flag


@pytest.mark.proves("cpu_map_ops", "a map has no map_extra, no offload and no BTF types")
def test_what_a_cpumap_has_not(lab: Casework) -> None:
    """No map_extra, no offload to a device, no types of its own."""
    with Answers(lab) as ask:
        ask.create(map_extra=1)
        ask.create(map_ifindex=lab.guest.ifindex["eth0"])
        ask.create(value_size=4, btf=True)


@pytest.mark.smoke
@pytest.mark.proves("cpu_map_alloc", "wrong sizes and flags come before too many entries")
def test_which_error_comes_first(lab: Casework) -> None:
    with Answers(lab) as ask:
        beyond = ask.facts.nr_cpus + 1
        ask.create(max_entries=beyond, value_size=5)
        ask.create(max_entries=beyond, key_size=8)
        ask.create(max_entries=beyond, map_flags=1)
        ask.create(max_entries=beyond, map_extra=1)
        ask.create(max_entries=beyond, value_size=4, btf=True)
        ask.create(value_size=5, btf=True)
