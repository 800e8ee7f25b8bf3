"""Looking entries up and deleting them: present, absent, and beyond the map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.answers import Answers

if TYPE_CHECKING:
    from harness.casework import Casework
    from harness.twin import Twin

UINT_MAX = 0xFFFFFFFF
KEYS = (0, 1, 2, 3, 4, 62, 63, 64, 65, 1 << 31, UINT_MAX)


@pytest.mark.proves(
    "cpu_map_lookup_elem", "a value is the entry's qsize and, of 8 bytes, its program's id"
)
@pytest.mark.proves("__cpu_map_lookup_elem", "a key without an entry, or beyond the map, has none")
@pytest.mark.parametrize("value_size", [4, 8])
def test_lookup(lab: Casework, value_size: int) -> None:
    with Answers(lab) as ask:
        for entries in (3, min(64, ask.facts.nr_cpus)):  # the last of 3 has an entry
            cpumap = ask.cpumap(max_entries=entries, value_size=value_size)
            for qsize in (1, 192, 16384):
                cpumap.update(0, qsize)
                cpumap.update(2, qsize)
                for key in KEYS:
                    cpumap.lookup(key)


def side_by_side(ask: Answers) -> list[Twin]:
    """Return maps with an entry in their first slot, behind which, as a rule, lies the next map's.

    Their arrays are of one size, and fill what they are allocated.
    """
    maps = [ask.cpumap(max_entries=min(32, ask.facts.nr_cpus)) for _ in range(48)]
    for cpumap in maps:
        cpumap.update(0)
    return maps


@pytest.mark.proves("__cpu_map_lookup_elem", "a key just beyond a map finds no other map's entry")
def test_a_lookup_beyond_a_map_finds_no_other_maps_entry(lab: Casework) -> None:
    with Answers(lab) as ask:
        for cpumap in side_by_side(ask):
            cpumap.lookup(cpumap.model.map.attr.max_entries)


@pytest.mark.proves("cpu_map_free", "a map that is closed takes no other map's entry with it")
def test_a_map_that_is_closed_takes_no_other_maps_entry_with_it(lab: Casework) -> None:
    with Answers(lab) as ask:
        maps = side_by_side(ask)
        for cpumap in maps[::2]:
            ask.forget(cpumap)
        assert len(lab.wait_kthreads(len(maps) // 2)) == len(maps) // 2
        for cpumap in maps[1::2]:
            cpumap.lookup(0)


@pytest.mark.proves("cpu_map_lookup_elem", "a lookup with flags is EINVAL")
def test_lookup_has_no_flags(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(0)
        for flags in (1, 2, 4, 8, 16, 1 << 32, 1 << 63):
            for key in (0, 1, 4):
                cpumap.lookup(key, flags)


@pytest.mark.smoke
@pytest.mark.proves("cpu_map_delete_elem", "deleting succeeds, whether there is an entry or not")
@pytest.mark.proves("cpu_map_delete_elem", "a key beyond max_entries is EINVAL")
@pytest.mark.proves("cpu_map_delete_elem", "no other entry goes")
def test_delete(lab: Casework) -> None:
    """Deleting what is not there succeeds; what cannot be there is invalid."""
    with Answers(lab) as ask:
        cpumap = ask.cpumap(max_entries=min(64, ask.facts.nr_cpus))
        for cpu in ask.facts.possible:
            cpumap.update(cpu)
        for key in (*KEYS, *KEYS):
            cpumap.delete(key)
            for cpu in ask.facts.possible:
                cpumap.lookup(cpu)


@pytest.mark.proves("cpu_map_delete_elem", "a bad pointer is EFAULT")
@pytest.mark.proves("cpu_map_lookup_elem", "a bad pointer is EFAULT, after the flags")
def test_bad_pointers(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(0)
        cpumap.delete(None)
        cpumap.lookup(None)
        cpumap.lookup(None, flags=8)
        cpumap.lookup(0)


@pytest.mark.proves("__cpu_map_entry_replace", "a deleted entry can be made again")
def test_a_deleted_entry_can_be_made_again(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        for qsize in (8, 16, 24):
            cpumap.update(1, qsize)
            cpumap.delete(1)
            cpumap.update(1, qsize)
            cpumap.update(1, 0)
            ask.settle()
