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

What each function does, since which version, on which kernels of the matrix, and the cases that
prove it. The kernels: {kernels}.
Made by `cpumap-lab contract --markdown` from the `proves` marks of the cases; do not edit.
"""


def page_of(rows: Sequence[Row]) -> str:
    """Return the table in Markdown, a section for each function."""
    parts = [HEAD.format(kernels=", ".join(matrix_kernels()))]
    for name, of in groupby(rows, attrgetter("function")):
        parts.append(f"\n## `{name}`\n\n")
        if formerly := FUNCTIONS[name].formerly:
            parts.append(f"Formerly {formerly}.\n\n")
        parts.append("| behaviour | since | kernels | cases |\n|---|---|---|---|\n")
        parts += [_line(row) for row in of]
    return "".join(parts)


def since(row: Row) -> str:
    """Return in which versions a row holds."""
    return f"{row.since}, until {row.until}" if row.until else row.since


def show_kernels(row: Row) -> str:
    """Return the kernels of a row in short."""
    if row.options:
        return f"built with {', '.join(row.options)}"
    if not row.known:
        return _some(row.kernels)
    return f"{_some(row.kernels)}; known issue: {_some(row.known)}"


def _some(of: tuple[str, ...]) -> str:
    every = tuple(matrix_kernels())
    if of == every:
        return "all"
    if len(of) > 2 and every[-len(of) :] == of:
        return f"{of[0]} on"
    if len(of) > 2 and every[: len(of)] == of:
        return f"up to {of[-1]}"
    return ", ".join(of) or "none"


def _line(row: Row) -> str:
    cases = []
    for case in row.cases:
        path, _, name = case.removeprefix("cases/").partition("::")
        cases.append(f"[{name.removeprefix('test_').replace('_', ' ')}]({path})")
    return f"| {row.behaviour} | {since(row)} | {show_kernels(row)} | {'; '.join(cases)} |\n"
