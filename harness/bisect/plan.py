"""What to judge next: halving a line of candidates, around those that cannot be judged. Pure."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PRN_MODULO = 32768
"""bisect.c of git."""


class Mark(enum.StrEnum):
    """What a candidate was found to be.

    `OLD`: it behaves as the older end does. `NEW`: as the newer end does. `SKIP`: nobody can tell.
    """

    OLD = "old"
    NEW = "new"
    SKIP = "skip"


def window(marks: Mapping[int, Mark]) -> tuple[int, int]:
    """Return the last candidate that is OLD and the first that is NEW."""
    return (
        max(number for number, mark in marks.items() if mark is Mark.OLD),
        min(number for number, mark in marks.items() if mark is Mark.NEW),
    )


def next_probe(marks: Mapping[int, Mark]) -> int | None:
    """Return the candidate to judge next; None when there is none left between OLD and NEW.

    It is the one in the middle. If that cannot be judged, git's `skip_away` says which one instead:
    somewhere off the middle, by a pseudo-random number that depends on how many are left, for the
    neighbours of a kernel that does not build or boot are likely not to, either.

    Args:
        marks: of the candidates that were judged, by number; both ends are among them.
    """
    low, high = window(marks)
    # As git ranks them: by how many answers the worse of the two outcomes leaves out
    ranked = sorted(range(low + 1, high), key=lambda each: (-min(each - low, high - each), each))
    left = [each for each in ranked if each not in marks]
    if not left or left[0] == ranked[0]:
        return left[0] if left else None
    # git counts the NEW end among those that are left, and takes the one before it instead
    return left[min(_away(len(left) + 1), len(left) - 1)]


def _away(count: int) -> int:
    number = ((count * 1103515245 + 12345) % (1 << 32) // 65536) % PRN_MODULO
    return (count * number // PRN_MODULO) * math.isqrt(number) // math.isqrt(PRN_MODULO)


def suspects(marks: Mapping[int, Mark]) -> range:
    """Return the candidates that the change may have come with; one, once all is known."""
    low, high = window(marks)
    return range(low + 1, high + 1)


def turns(answers: int) -> int:
    """Return how many verdicts it takes at most to find one of so many answers (without skips)."""
    return max(answers - 1, 0).bit_length()


def expected_turns(answers: int) -> float:
    """Return how many it takes on average, if each answer is as likely as any other."""
    if answers < 2:
        return 0.0
    full = answers.bit_length() - 1
    return full + 2 * (answers - (1 << full)) / answers


def foresee(
    marks: Mapping[int, Mark], probe: int, weigh: Callable[[int, int], float]
) -> int | None:
    """Return the candidate that is likely to be next, before a probe's verdict is known.

    Args:
        marks: of the candidates that were judged.
        probe: the one that is being judged.
        weigh: how much has changed from one candidate to another; the change looked for is likelier
            to be where there are more.
    """
    low, high = window(marks)
    likely = Mark.NEW if weigh(low, probe) >= weigh(probe, high) else Mark.OLD
    other = Mark.OLD if likely is Mark.NEW else Mark.NEW
    guesses = [next_probe({**marks, probe: mark}) for mark in (likely, other)]
    return next((guess for guess in guesses if guess is not None), None)


def upstream_between(old: Sequence[int], new: Sequence[int]) -> list[str]:
    """Return the mainline releases after one kernel's series, up to that of another: "6.13", ...

    Args:
        old: the numbers of a version, like (6, 12, 117).
        new: those of a later one.
    """
    major, minor = old[0], old[1]
    between = []
    while (major, minor) < (new[0], new[1]):
        major, minor = (major + 1, 0) if minor == _LAST.get(major, 19) else (major, minor + 1)
        between.append(f"{major}.{minor}")
    return between


_LAST = {4: 20}
"""The last minor number of a major one, where it is not 19."""
