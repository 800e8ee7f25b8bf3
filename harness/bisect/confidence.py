"""How often to ask a flaky signal, and what its answers prove. Pure arithmetic.

The two ends of a bisection are what its user vouches for. Each is run many times: how often the
failure showed itself there is what is known of how often it shows itself in a kernel that has the
change, and in one that has not. From this, and from a first opinion that every rate is as likely as
any other, comes how likely it is that another kernel shows it k times in n runs if it is like the
one end, and if it is like the other (a beta-binomial distribution, which keeps in mind how little a
few runs tell about a rate). Their ratio is the odds. A kernel is run until the chance that it is
like the other end is below what each turn may cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.bisect.plan import turns

if TYPE_CHECKING:
    from collections.abc import Iterator

LEARN = 8
"""Times that the failure has to show itself at the end that has it."""
LEARN_RUNS = 250
"""Runs after which that end is given up."""
MOST_RUNS = 500
"""Runs after which a kernel that is like neither end is skipped."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a failure showed itself.

    Attributes:
        shown: runs that showed it.
        runs: all runs.
    """

    shown: int = 0
    runs: int = 0

    def add(self, *, shown: bool) -> Tally:
        """Return the tally after one more run."""
        return Tally(self.shown + shown, self.runs + 1)

    def __str__(self) -> str:
        return f"{self.shown} of {self.runs}"


@dataclass(frozen=True, slots=True)
class Weight:
    """What the runs of a kernel weigh.

    Attributes:
        seen: the runs.
        with_it: the end that has the failure.
        without: the end that has not.
    """

    seen: Tally
    with_it: Tally
    without: Tally

    @property
    def like_with(self) -> float:
        """How likely such runs are (in their order) if the kernel is like the end that has it."""
        return math.exp(_log_chance(self.seen, self.with_it))

    @property
    def like_without(self) -> float:
        """How likely they are if it is like the end that has not."""
        return math.exp(_log_chance(self.seen, self.without))

    @property
    def chance_with(self) -> float:
        """The chance that it has the failure, if it was as likely as not before."""
        odds = _log_chance(self.seen, self.without) - _log_chance(self.seen, self.with_it)
        return 1 / (1 + math.exp(min(odds, 700.0)))

    def settle(self, risk: float) -> bool | None:
        """Say whether the kernel has the failure; None while the chance to be wrong is above."""
        if self.chance_with >= 1 - risk:
            return True
        return False if self.chance_with <= risk else None

    def lines(self) -> Iterator[str]:
        """Yield the arithmetic."""
        yield (
            f"{self.seen} runs showed it: likelihood {self.like_with:.2g} if like the end with it "
            f"({self.with_it}), {self.like_without:.2g} if like the one without ({self.without})"
        )
        chance = self.chance_with
        likelier, left = ("has it", 1 - chance) if chance > 0.5 else ("has it not", chance)
        yield f"{likelier}; chance of the contrary {left:.2g}"


def turn_risk(confidence: float, answers: int) -> float:
    """Return the chance to be wrong that each of a bisection's verdicts may have.

    The chances of all turns together stay below what was asked (Boole's inequality).

    Args:
        confidence: the chance that the answer is right, like 0.99.
        answers: among how many.
    """
    return (1 - confidence) / max(turns(answers), 1)


def told_apart(with_it: Tally, without: Tally, risk: float) -> bool | None:
    """Say whether two ends differ beyond doubt: False not yet, None if they are alike.

    The end without the failure is compared with a kernel of which nothing is known.
    """
    alike = Weight(without, with_it, Tally()).settle(risk)
    return None if alike else alike is False


def _log_chance(seen: Tally, learned: Tally) -> float:
    """Return the logarithm of a beta-binomial probability, for runs in a given order."""
    shown, hidden = 1 + learned.shown, 1 + learned.runs - learned.shown
    more, less = shown + seen.shown, hidden + seen.runs - seen.shown
    return _log_beta(more, less) - _log_beta(shown, hidden)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
