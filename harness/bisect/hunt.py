"""The search among the archive's builds: both ends, then what the plan says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.bisect.packages import Prefetch, weigh
from harness.bisect.plan import Mark, foresee, next_probe, suspects, turns, window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.bisect.bench import Bench, Finding
    from harness.bisect.packages import Candidate


@dataclass(frozen=True)
class Answer:
    """How a search ended.

    Attributes:
        last_old: the last build that is like the older end, and how it was found to be.
        suspects: the builds that the change may have come with, oldest first: one, or those that
            could not be judged and the one after them.
        first_new: the last of the suspects, and how it was found to be.
        visited: how many builds were judged.
    """

    last_old: tuple[Candidate, Finding]
    suspects: tuple[Candidate, ...]
    first_new: tuple[Candidate, Finding]
    visited: int


def search(
    candidates: Sequence[Candidate],
    bench: Bench,
    prefetch: Prefetch,
    tell: Callable[[Candidate, Finding, int], None],
) -> Answer:
    """Find the build that brought a change.

    Args:
        candidates: oldest first; the first and the last are the ends.
        bench: judges them.
        prefetch: brings the next one meanwhile.
        tell: told each finding, and how many turns are left at most.

    Raises:
        UserError: an end is on the wrong side.
        LabBroken: the lab cannot judge.
    """
    by_spec = {each.spec: number for number, each in enumerate(candidates)}
    last = len(candidates) - 1
    marks = {n: Mark.SKIP for n, each in enumerate(candidates) if each.gone}

    def prepare(spec: str) -> None:
        """Have a build here, and begin to bring the one that is likely to be next."""
        number = by_spec[spec]
        prefetch.wait(candidates[number])
        coming: int | None = last
        if number == last:
            coming = next_probe({**marks, 0: Mark.OLD, last: Mark.NEW})
        elif number:
            coming = foresee(marks, number, lambda a, b: weigh(candidates[a], candidates[b]))
        if coming is not None:
            prefetch.start(candidates[coming])

    ends = bench.judge_ends(candidates[0].spec, candidates[last].spec, prepare)
    found = {0: ends[0], last: ends[1]}
    marks |= {number: finding.mark for number, finding in found.items()}
    for number, finding in found.items():
        tell(candidates[number], finding, turns(last))
    while (probe := next_probe(marks)) is not None:
        prepare(candidates[probe].spec)
        found[probe] = bench.judge(candidates[probe].spec)
        marks[probe] = found[probe].mark
        tell(candidates[probe], found[probe], turns(len(suspects(marks))))
    low, high = window(marks)
    return Answer(
        (candidates[low], found[low]),
        tuple(candidates[number] for number in suspects(marks)),
        (candidates[high], found[high]),
        len(found),
    )
