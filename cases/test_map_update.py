"""What an update answers, whatever it is asked; one that fails leaves the old entry in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.answers import CLOSED_FD, Answers
from harness.model.control import NotProg
from harness.plug import set_online
from harness.twin import Ref

if TYPE_CHECKING:
    from harness.casework import Casework

ANY, NOEXIST, EXIST = range(3)
LIMIT = 16384
UINT_MAX = 0xFFFFFFFF
FLAGS = (ANY, NOEXIST, EXIST, 3, 4, 5, 8, 16, 24, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)


@pytest.mark.proves("cpu_map_update_elem", "flags above BPF_EXIST are EINVAL")
@pytest.mark.proves("cpu_map_update_elem", "BPF_NOEXIST is EEXIST, with an entry or without")
@pytest.mark.proves("cpu_map_update_elem", "BPF_EXIST makes an entry where there is none")
@pytest.mark.parametrize("value_size", [4, 8])
def test_flags(lab: Casework, value_size: int) -> None:
    """They ask for an entry or for none, yet none looks whether there is one."""
    with Answers(lab) as ask:
        cpumap = ask.cpumap(value_size=value_size)
        for qsize, flags in enumerate(FLAGS, start=100):  # each would leave its own qsize behind
            cpumap.delete(0)
            cpumap.update(0, qsize, flags=flags)
            cpumap.update(1, 64)
            cpumap.update(1, qsize, flags=flags)
            cpumap.update(2, 0, flags=flags)


@pytest.mark.proves("cpu_map_update_elem", "a qsize is 1 to 16384: more is EOVERFLOW")
@pytest.mark.proves("cpu_map_update_elem", "a qsize of 0 deletes")
@pytest.mark.parametrize("value_size", [4, 8])
def test_qsizes(lab: Casework, value_size: int) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap(value_size=value_size)
        for qsize in (1, 2, 8, 31, 32, 192, LIMIT - 1, LIMIT, LIMIT + 1, 1 << 31, UINT_MAX, 0, 0):
            cpumap.update(2, qsize)


@pytest.mark.proves("cpu_map_update_elem", "a key beyond max_entries is E2BIG")
@pytest.mark.proves("cpu_map_update_elem", "a CPU that can never be there is ENODEV")
def test_keys(lab: Casework) -> None:
    """A key is a CPU that may be there, below max_entries."""
    with Answers(lab) as ask:
        small, large = ask.cpumap(max_entries=2), ask.cpumap(max_entries=ask.facts.nr_cpus)
        possible, limit = len(ask.facts.possible), ask.facts.nr_cpus
        for key in (0, 1, 2, 3, possible, limit - 1, limit, 1 << 31, UINT_MAX):
            small.update(key)
            large.update(key)
        for key in ask.facts.possible:
            large.update(key)


@pytest.mark.proves("cpu_map_update_elem", "a CPU that is offline may have an entry")
def test_a_cpu_that_is_offline_may_have_an_entry(lab: Casework) -> None:
    set_online(lab.guest, 3, online=False)
    with Answers(lab) as ask:
        assert 3 not in ask.facts.online
        cpumap = ask.cpumap()
        cpumap.update(3)
        cpumap.update(3, 64)
        cpumap.delete(3)
        cpumap.update(3, 0)


@pytest.mark.smoke
@pytest.mark.proves(
    "cpu_map_update_elem", "errors come in this order: flags, key, NOEXIST, qsize, CPU, program"
)
def test_which_error_comes_first(lab: Casework) -> None:
    """Flags, key, NOEXIST, qsize, CPU, program: in this order."""
    with Answers(lab) as ask:
        beyond = min(64, ask.facts.nr_cpus)
        cpumap = ask.cpumap(max_entries=beyond)
        closed, absent = Ref(CLOSED_FD, NotProg(open=False)), beyond - 1
        cpumap.update(beyond, 0, flags=3)
        cpumap.update(beyond, LIMIT + 1, flags=3)
        cpumap.update(beyond, 8, flags=NOEXIST)
        cpumap.update(beyond, LIMIT + 1)
        cpumap.update(beyond, 0)
        cpumap.update(0, LIMIT + 1, flags=NOEXIST)
        cpumap.update(absent, 8, flags=NOEXIST)
        cpumap.update(0, 0, flags=NOEXIST)
        cpumap.update(absent, LIMIT + 1)
        cpumap.update(absent, 0)
        cpumap.update(absent, 8, closed)
        cpumap.update(0, LIMIT + 1, closed)
        cpumap.update(0, 8, closed, flags=NOEXIST)
        cpumap.update(0, 0, closed)


@pytest.mark.proves(
    "cpu_map_update_elem", "a bad pointer is EFAULT, after the flags of the command itself"
)
def test_bad_pointers(lab: Casework) -> None:
    """The flags of the command itself come before pointers, those of the map after them."""
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        for flags in (ANY, NOEXIST, 3, 4, 8, 16, 1 << 32):
            cpumap.update(None, 8, flags=flags)
            cpumap.update(0, None, flags=flags)


@pytest.mark.proves(
    "cpu_map_update_elem", "each update makes a new entry, with a kthread of its own"
)
@pytest.mark.proves("__cpu_map_entry_replace", "the old entry's kthread ends")
def test_an_update_makes_a_new_entry(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        kthreads = set()
        for qsize in (8, 8, 64):
            cpumap.update(1, qsize)
            ask.settle()
            kthreads |= set(lab.guest.threads("cpumap/"))
        assert len(kthreads) == 3


@pytest.mark.proves("cpu_map_alloc", "each map has entries of its own")
@pytest.mark.proves("cpu_map_free", "a map that is closed stops its own kthreads and no other's")
def test_maps_do_not_share_entries(lab: Casework) -> None:
    with Answers(lab) as ask:
        first, second = ask.cpumap(), ask.cpumap(value_size=4)
        for cpu in ask.facts.possible:
            first.update(cpu, 10 + cpu)
            second.update(cpu, 20 + cpu)
        ask.settle()
        for cpu in ask.facts.possible:
            second.delete(cpu)
            first.lookup(cpu)
        ask.forget(first)
