"""Walking a cpumap key by key, and the commands that it does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.answers import Answers
from harness.twin import BATCHES

if TYPE_CHECKING:
    from harness.casework import Casework

UINT_MAX = 0xFFFFFFFF


@pytest.mark.proves(
    "cpu_map_get_next_key",
    "it goes through all keys, with an entry or without; after the last it is ENOENT",
)
@pytest.mark.proves("cpu_map_get_next_key", "no key, or one beyond the map, is followed by 0")
def test_next_key_goes_through_all_keys(lab: Casework) -> None:
    """Whether they have an entry or not."""
    with Answers(lab) as ask:
        limit = ask.facts.nr_cpus
        for max_entries in (1, 2, 4, limit):
            cpumap = ask.cpumap(max_entries=max_entries)
            cpumap.update(max_entries // 2)
            for key in (None, 0, 1, 2, 3, 4, 5, limit - 2, limit - 1, limit, 1 << 31, UINT_MAX):
                cpumap.next_key(key)


@pytest.mark.proves("cpu_map_ops", "batch commands are ENOTSUPP")
def test_there_are_no_batches(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(0)
        for name in BATCHES:
            cpumap.batch(name)
        cpumap.lookup(0)


@pytest.mark.proves("cpu_map_ops", "BPF_MAP_LOOKUP_AND_DELETE_ELEM is ENOTSUPP and deletes nothing")
def test_there_is_no_lookup_and_delete(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(0)
        cpumap.lookup_and_delete(0)
        cpumap.lookup_and_delete(1)
        cpumap.lookup_and_delete(4)
