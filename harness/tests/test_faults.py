"""Where a function of the kernel begins and ends."""

from __future__ import annotations

import pytest

from harness.errors import GuestError
from harness.faults import symbol_range

KALLSYMS = """\
ffffffff81000000 T _text
ffffffff81000300 t later
ffffffff81000100 t cpu_map_update_elem
ffffffff81000200 d some_data
ffffffff81000100 t __pfx_alias
"""


def test_a_function_ends_where_the_next_begins() -> None:
    assert symbol_range(KALLSYMS, "cpu_map_update_elem") == (0xFFFFFFFF81000100, 0xFFFFFFFF81000300)
    assert symbol_range(KALLSYMS, "later") == (0xFFFFFFFF81000300, 0xFFFFFFFF81000301)


def test_a_function_that_is_not_there_is_named() -> None:
    with pytest.raises(GuestError, match="no function inlined_away"):
        symbol_range(KALLSYMS, "inlined_away")
