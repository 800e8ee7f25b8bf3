"""Judging a kernel from its runs: as many as it takes, each in the journal before the next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.bisect.confidence import LEARN, LEARN_RUNS, MOST_RUNS, Tally, Weight, told_apart
from harness.bisect.plan import Mark
from harness.errors import UserError
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.bisect.journal import Journal
    from harness.bisect.sight import Sight

TRIES = 2
"""Runs without a verdict for the lab's sake (invalid), after which a kernel is skipped."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a kernel was found to be.

    Attributes:
        mark: like which end it is.
        sight: the run that tells most: the last that showed the failure, if any did.
        tally: of its runs with a verdict.
        weight: the arithmetic; None where one run decides.
    """

    mark: Mark
    sight: Sight
    tally: Tally
    weight: Weight | None = None


class Bench:
    """Judges the kernels of one bisection.

    Args:
        ask: runs the subject once on the kernel of this name.
        journal: where each run is written down, and what earlier ones showed.
        new_shows: the newer end has the failure; False when a fix is looked for.
        risk: the chance that a verdict may be wrong; None: a single run decides.
        tell: told each run of a kernel that takes several.
    """

    def __init__(
        self,
        ask: Callable[[str], Sight],
        journal: Journal,
        *,
        new_shows: bool = True,
        risk: float | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._ask = ask
        self._journal = journal
        self._new_shows = new_shows
        self._risk = risk
        self._tell = tell
        self._kernels: dict[str, _Kernel] = {}
        self._ends: tuple[_Kernel, ...] = ()
        self._with = self._without = Tally()

    def judge_ends(self, old: str, new: str, prepare: Callable[[str], None]) -> list[Finding]:
        """Judge both ends; several runs of each teach how often the failure shows itself.

        Args:
            old: the older one.
            new: the newer one.
            prepare: told which one is about to be run.

        Raises:
            UserError: an end is not what it was said to be; with what was seen.
        """
        with_it, without = (new, old) if self._new_shows else (old, new)
        for name in (old, new):
            prepare(name)
            kernel = self._of(name)
            if kernel.run() and kernel.tally.shown != (name == with_it) and self._risk is None:
                raise _refuse(name, kernel.finding(), shows=name == with_it)
            if kernel.skipped:
                raise _refuse(name, kernel.finding(), shows=name == with_it)
        if self._risk is not None:
            self._ends = self._of(with_it), self._of(without)
            self._learn(*self._ends, self._risk)
        return [
            replace(self._of(name).finding(), mark=mark)
            for name, mark in ((old, Mark.OLD), (new, Mark.NEW))
        ]

    def judge(self, name: str) -> Finding:
        """Judge a kernel between the ends."""
        kernel = self._of(name)
        while kernel.tally.runs < MOST_RUNS and kernel.run():
            weight = Weight(kernel.tally, self._with, self._without)
            if self._risk is None:
                return kernel.finding(self._mark(shown=kernel.tally.shown > 0))
            self._tell(f"{kernel.tally} runs showed it")
            if (shown := weight.settle(self._risk)) is not None:
                return kernel.finding(self._mark(shown=shown), weight)
            if kernel.tally.runs >= 2 * self._with.runs:
                self._learn_more()  # however often it is run, it is told no better from the ends
        return kernel.finding()

    def _mark(self, *, shown: bool) -> Mark:
        return Mark.NEW if shown == self._new_shows else Mark.OLD

    def _of(self, name: str) -> _Kernel:
        if name not in self._kernels:
            self._kernels[name] = _Kernel(self._look(name))
        return self._kernels[name]

    def _look(self, name: str) -> Iterator[Sight]:
        yield from self._journal.runs_of(name)
        while True:
            sight = self._ask(name)
            self._journal.note(name, sight)
            yield sight

    def _learn(self, with_it: _Kernel, without: _Kernel, risk: float) -> None:
        while with_it.tally.shown < LEARN:
            if with_it.tally.runs >= LEARN_RUNS or not with_it.run():
                raise _refuse("the end that has it", with_it.finding(), shows=True)
            self._tell(f"learning: {with_it.tally} runs of the end with it showed it")
        while without.tally.runs < with_it.tally.runs or not told_apart(
            with_it.tally, without.tally, risk
        ):
            later = without if without.tally.runs < with_it.tally.runs else with_it
            alike = told_apart(with_it.tally, without.tally, risk) is None
            if alike or without.tally.runs >= LEARN_RUNS or not later.run():
                raise _refuse("the end that has it not", without.finding(), shows=False)
            self._tell(f"learning: {without.tally} runs of the end without it showed it")
        self._with, self._without = with_it.tally, without.tally

    def _learn_more(self) -> None:
        """Run both ends as often again."""
        for end in self._ends:
            wanted = 2 * end.tally.runs
            while end.tally.runs < wanted and end.run():
                self._tell(f"learning more: {end.tally} runs of an end showed it")
        self._with, self._without = (end.tally for end in self._ends)


class _Kernel:
    """The runs of one kernel so far.

    Args:
        sights: yields one run after another.

    Attributes:
        tally: of those with a verdict.
        skipped: it cannot be judged.
    """

    def __init__(self, sights: Iterator[Sight]) -> None:
        self._sights = sights
        self._invalid = 0
        self._telling: Sight | None = None
        self.tally = Tally()
        self.skipped = False

    def run(self) -> bool:
        """Run it until there is one more verdict; False if there is none to be had."""
        while not self.skipped:
            sight = next(self._sights)
            if sight.shown is not None:
                self.tally = self.tally.add(shown=sight.shown)
                if sight.shown or self._telling is None or not self._telling.shown:
                    self._telling = sight
                return True
            self._invalid += sight.verdict == Verdict.INVALID
            self.skipped = self._invalid >= TRIES or sight.verdict != Verdict.INVALID
            self._telling = sight
        return False

    def finding(self, mark: Mark = Mark.SKIP, weight: Weight | None = None) -> Finding:
        """Return what it was found to be."""
        assert self._telling is not None
        return Finding(mark, self._telling, self.tally, weight)


def _refuse(name: str, finding: Finding, *, shows: bool) -> UserError:
    sight = finding.sight
    seen = f"{sight.verdict}{f': {sight.why}' if sight.why else ''}"
    runs = f" ({finding.tally} runs showed it)" if finding.tally.runs > 1 else ""
    kept = f"\n  results: {sight.artifacts}" if sight.artifacts else ""
    if sight.shown is None:
        return UserError(
            f"{name} cannot be an end, for it cannot be judged: {seen}{kept}",
            remedy="take a neighbour of it",
        )
    said = "show the failure and does not" if shows else "be without the failure and shows it"
    return UserError(
        f"{name} is on the wrong side: it was to {said}{runs}\n  seen: {seen}{kept}",
        remedy="exchange or move the ends; --invert looks for what fixed something",
    )
