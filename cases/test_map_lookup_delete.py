"""Looking entries up and deleting them: present, absent, and beyond the map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.answers import Answers

if TYPE_CHECKING:
    from harness.casework import Casework

UINT_MAX = 0xFFFFFFFF
KEYS = (0, 1, 2, 3, 4, 62, 63, 64, 65, 1 << 31, UINT_MAX)


@pytest.mark.parametrize("value_size", [4, 8])
def test_lookup(lab: Casework, value_size: int) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap(max_entries=64, value_size=value_size)
        for qsize in (1, 192, 16384):
            cpumap.update(0, qsize)
            cpumap.update(2, qsize)
            for key in KEYS:
                cpumap.lookup(key)


def test_lookup_has_no_flags(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(0)
        for flags in (1, 2, 4, 8, 16, 1 << 32, 1 << 63):
            for key in (0, 1, 4):
                cpumap.lookup(key, flags)


def test_delete(lab: Casework) -> None:
    """Deleting what is not there succeeds; what cannot be there is invalid."""
    with Answers(lab) as ask:
        cpumap = ask.cpumap(max_entries=64)
        for cpu in ask.facts.possible:
            cpumap.update(cpu)
        for key in (*KEYS, *KEYS):
            cpumap.delete(key)
            for cpu in ask.facts.possible:
                cpumap.lookup(cpu)


def test_bad_pointers(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(0)
        cpumap.delete(None)
        cpumap.lookup(None)
        cpumap.lookup(None, flags=8)
        cpumap.lookup(0)


def test_a_deleted_entry_can_be_made_again(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        for qsize in (8, 16, 24):
            cpumap.update(1, qsize)
            cpumap.delete(1)
            cpumap.update(1, qsize)
            cpumap.update(1, 0)
            ask.settle()
