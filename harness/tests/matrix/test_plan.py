"""The matrix's file, and what the command line chooses of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.errors import UserError
from harness.matrix.plan import FILE, Row, load_matrix

if TYPE_CHECKING:
    from pathlib import Path

from harness.tests.matrix.tools import NEW, OLD, RT, TWO, write


def test_the_file_that_is_in_use() -> None:
    matrix = load_matrix(FILE)
    by_spec = {row.kernel: row.cases for row in matrix.kernels}
    names = ("5.10", "6.1", "6.12", "6.16", "6.18", "7.2", "7.3", "7.3-rt")
    assert matrix.specs == [f"debian:{name}" for name in names]
    assert [by_spec[spec] for spec in (OLD, NEW, RT)] == ["all"] * 3


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "smoke",
            "smok",
            "2:34: kernels[0].cases: found the text `smok`; allowed: all or smoke; d",
        ),
        ("debian:7.3", "debian7", "3:14: kernels[1].kernel: found the text `debian7`; the forms a"),
        ("debian:7.3", "debian:5.10", "3:14: kernels[1].kernel: `debian:5.10` is taken already"),
        ("cases", "case", "2:27: kernels[0].case: unknown key; did you mean `cases`?"),
        ("kernel:", "kernels:", "; or did you mean `kernel`?"),
        (TWO, "kernels: []", "1:10: kernels: found an empty list; allowed: a list of 1 to 64"),
        (TWO, "- debian:7.3", "1:1: found a list of 1; a matrix is a mapping with the key kernels"),
    ],
)
def test_what_is_wrong_with_it(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in TWO
    with pytest.raises(UserError) as caught:
        load_matrix(write(tmp_path, TWO.replace(old, new)))
    assert told in caught.value.message


def test_what_the_command_line_chooses(tmp_path: Path) -> None:
    matrix = load_matrix(write(tmp_path, TWO))
    assert matrix.choose([], None) == matrix
    assert matrix.choose([RT, OLD, RT], None).kernels == (
        Row(kernel=RT, cases="all"),
        Row(kernel=OLD, cases="smoke"),
    )
    assert [row.cases for row in matrix.choose([], "smoke").kernels] == ["smoke", "smoke"]
    assert [row.cases for row in matrix.choose([OLD], "all").kernels] == ["all"]
