"""The contract as a page for people."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from harness.contract.functions import FUNCTIONS
from harness.contract.table import matrix_kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.contract.table import Row

HEAD = """\
# The contract of kernel/bpf/cpumap.c

What each function does, on which kernels of the matrix ({kernels}), and the cases that prove it.
Made by `cpumap-lab contract --markdown` from the `proves` marks of the cases; do not edit.
"""


def page_of(rows: Sequence[Row]) -> str:
    """Return the table in Markdown, a section for each function."""
    kernels = tuple(matrix_kernels())
    parts = [HEAD.format(kernels=", ".join(kernels))]
    for name, of in groupby(rows, attrgetter("function")):
        parts.append(f"\n## `{name}`\n\n")
        if formerly := FUNCTIONS[name].formerly:
            parts.append(f"Formerly {formerly}.\n\n")
        parts.append("| behaviour | kernels | cases |\n|---|---|---|\n")
        parts += [_line(row, kernels) for row in of]
    return "".join(parts)


def period(row: Row, kernels: Sequence[str]) -> str:
    """Return the kernels of a row in short."""
    return "all" if row.kernels == tuple(kernels) else ", ".join(row.kernels)


def _line(row: Row, kernels: Sequence[str]) -> str:
    cases = []
    for case in row.cases:
        path, _, name = case.removeprefix("cases/").partition("::")
        cases.append(f"[{name.removeprefix('test_')}]({path})")
    return f"| {row.behaviour} | {period(row, kernels)} | {', '.join(cases)} |\n"
