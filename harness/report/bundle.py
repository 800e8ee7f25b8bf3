"""The stories that runs' own pages tell, packed to be told by one page of them all."""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.report.page import read_told
from harness.report.record import PAGE
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_BYTES = 48 << 20
"""Of all stories together, as they stand in the page."""
FULL_BYTES = 40 << 20
"""Of those that are told in full; the rest of the room is for others in brief."""
BRIEF = (Verdict.PASS, Verdict.SKIP)


@dataclass(slots=True)
class Bundle:
    """The stories of many runs.

    Attributes:
        packed: a story by the number of its run: JSON, gzipped, in base64.
        notes: what the reader has to know of what is not in it.
    """

    packed: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def bundle(runs: Sequence[tuple[Path | None, Verdict]]) -> Bundle:
    """Pack the stories of runs: in full of those that did not pass, while there is room.

    Args:
        runs: of each the directory of what was kept of it, if anything was, and its verdict.
    """
    told, size = Bundle(), 0
    counts: Counter[str] = Counter()
    order = sorted(range(len(runs)), key=lambda number: runs[number][1] in BRIEF)
    for number in order:
        directory, verdict = runs[number]
        if directory is None:
            continue
        story = _read(directory / PAGE)
        if story is None:
            counts["gone"] += 1
            continue
        for kind, most in _kinds(verdict):
            packed = _pack(story if kind == "full" else _shorten(story, verdict))
            if size + len(packed) <= most:
                told.packed[number] = packed
                size += len(packed)
                counts[kind] += 1
                break
        else:
            counts["left out"] += 1
    if told.packed:
        told.notes.append(
            f"Runs whose story is in this page: in full {counts['full']:,}, in brief (without "
            f"events and texts) {counts['brief']:,}. Follow a verdict to read it."
        )
    if counts["left out"]:
        told.notes.append(f"Runs for whose story there was no room: {counts['left out']:,}.")
    if counts["gone"]:
        told.notes.append(f"Runs of which nothing is left: {counts['gone']:,}.")
    return told


def _kinds(verdict: Verdict) -> Iterator[tuple[str, int]]:
    """Yield how a story may be told, the best first, and how full the page may be of it."""
    if verdict not in BRIEF:
        yield "full", FULL_BYTES
    yield "brief", MAX_BYTES


def _read(page: Path) -> dict[str, Any] | None:
    try:
        return read_told(page.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _shorten(story: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    """Return a story without what is long in it, and why."""
    events = {name: [] if isinstance(of, list) else of for name, of in story["events"].items()}
    why = "it passed" if verdict in BRIEF else "there is no room for all that did not pass"
    return {**story, "events": events | {"x": {}}, "texts": [], "brief": why}


def _pack(story: dict[str, Any]) -> str:
    text = json.dumps(story, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
