"""Coverage as lcov's tracefile, which genhtml, editors and CI services read (geninfo(1))."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.coverage.result import branches_of, lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.coverage.result import Coverage


def to_lcov(coverage: Coverage) -> str:
    """Return the tracefile."""
    return "".join(f"{line}\n" for line in _records(coverage))


def _records(coverage: Coverage) -> Iterator[str]:
    yield "TN:"
    yield f"SF:{coverage.source}"
    functions = coverage.functions
    for name, lines in functions.items():
        yield f"FN:{lines[0].number},{name}"
        yield f"FNDA:{lines[0].count},{name}"
    yield f"FNF:{len(functions)}"
    yield f"FNH:{sum(bool(lines[0].count) for lines in functions.values())}"
    for line in coverage.lines:
        for branch, count in enumerate(line.branches):
            yield f"BRDA:{line.number},0,{branch},{count if line.count else '-'}"
    ways = branches_of(coverage.lines)
    yield f"BRF:{ways.total}"
    yield f"BRH:{ways.reached}"
    for line in coverage.lines:
        yield f"DA:{line.number},{line.count}"
    share = lines_of(coverage.lines)
    yield f"LF:{share.total}"
    yield f"LH:{share.reached}"
    yield "end_of_record"
