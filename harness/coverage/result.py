"""What gcov makes of the counters: the lines and branches of cpumap.c, and how often each ran."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.coverage.counters import run_tool
from harness.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable

SOURCE = "kernel/bpf/cpumap.c"


@dataclass(frozen=True)
class Line:
    """A line that the compiler made code of.

    Attributes:
        number: in the file, from 1.
        function: the function that it stands in.
        count: how often it ran.
        branches: how often each way was taken that leads on from it.
        text: the line itself, without what surrounds it; "" if the source is not here.
    """

    number: int
    function: str
    count: int
    branches: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Coverage:
    """What ran of cpumap.c.

    Attributes:
        source: the file.
        lines: in the order of the file.
    """

    source: Path
    lines: tuple[Line, ...]

    @property
    def functions(self) -> dict[str, tuple[Line, ...]]:
        """The lines by function, in the order of the file."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.function, []).append(line)
        return {name: tuple(lines) for name, lines in found.items()}

    @property
    def unreached(self) -> tuple[Line, ...]:
        """The lines that never ran."""
        return tuple(line for line in self.lines if not line.count)


@dataclass(frozen=True)
class Share:
    """How many of how many.

    Attributes:
        reached: those that ran.
        total: all.
    """

    reached: int
    total: int

    @property
    def percent(self) -> float:
        """100 where there is nothing to reach."""
        return 100.0 * self.reached / self.total if self.total else 100.0

    def __str__(self) -> str:
        return f"{self.reached} of {self.total} ({self.percent:.1f} %)"


def lines_of(lines: Iterable[Line]) -> Share:
    """Return how many lines ran."""
    counts = [line.count for line in lines]
    return Share(sum(map(bool, counts)), len(counts))


def branches_of(lines: Iterable[Line]) -> Share:
    """Return how many branches were taken."""
    counts = [count for line in lines for count in line.branches]
    return Share(sum(map(bool, counts)), len(counts))


def read_coverage(counters: Path) -> Coverage:
    """Return what the counters say.

    Args:
        counters: a .gcda with its .gcno beside it.

    Raises:
        ToolMissing, LabError: gcov is not here, or does not understand them.
    """
    told = run_tool("gcov", "-b", "-c", "-j", "-t", counters.name, cwd=counters.parent)
    return parse(json.loads(told or b"{}"))


def parse(told: dict[str, Any]) -> Coverage:
    """Return the coverage of cpumap.c in gcov's JSON (gcov(1), --json-format).

    A line that a function was inlined on, or that a macro fills, is told once for each function it
    was compiled into: their counts are added.

    Raises:
        LabError: it tells of no such file.
    """
    file = next((f for f in told.get("files", ()) if f["file"].endswith(SOURCE)), None)
    if file is None:
        raise LabError(
            f"gcov tells nothing of {SOURCE}", remedy="is gcov of the kernel's compiler?"
        )
    source = Path(told.get("current_working_directory", ""), file["file"])
    text = source.read_text().splitlines() if source.is_file() else []
    starts = sorted((f["start_line"], f["end_line"], f["name"]) for f in file["functions"])
    found: dict[int, Line] = {}
    for line in file["lines"]:
        number = line["line_number"]
        inside = [name for start, end, name in starts if start <= number <= end]
        # gcov tells nothing of a function that was inlined wherever it is called
        function = inside[0] if inside else _function_above(text[:number])
        branches = tuple(branch["count"] for branch in line["branches"])
        content = text[number - 1].strip() if number <= len(text) else ""
        before = found.get(number)
        count = line["count"] + (before.count if before else 0)
        found[number] = Line(
            number, function, count, (before.branches if before else ()) + branches, content
        )
    return Coverage(source, tuple(found[number] for number in sorted(found)))


def _function_above(text: list[str]) -> str:
    named = (re.match(r"[a-z].*?\b(\w+)\(", line) for line in reversed(text))
    return next((match[1] for match in named if match), "")
