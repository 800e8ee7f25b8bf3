"""Trials in rounds, and what to say of their figures.

Speeds are compared within a round (A B A B …), so that a machine that grows slower or faster in the
meantime does not favour either.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import AgentLost, BootFailed, GuestError, QemuFailed

Trial = Callable[[], Mapping[str, Sequence[float]]]
"""One trial: what it measured, by name, each once or several times over."""
BROKEN = (AgentLost, BootFailed, GuestError, QemuFailed)
"""What a trial may die of without ending the bench: counted and shown, never left out."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A trial that gave no figure.

    Attributes:
        name: which trial.
        round: in which round, from 1.
        kind: the error's class.
        what: its message.
    """

    name: str
    round: int
    kind: str
    what: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A series in five numbers; the first three are None when every trial failed."""

    median: float | None
    min: float | None
    max: float | None
    count: int
    failures: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, rounded to what the clock is good for."""
        figures = {"median": self.median, "min": self.min, "max": self.max}
        rounded = {k: None if v is None else round(v, 4) for k, v in figures.items()}
        return {**rounded, "count": self.count, "failures": self.failures}


@dataclass
class Rounds:
    """Figures by round and name.

    Attributes:
        rows: per round, what the trials that succeeded in it measured.
        failures: the trials that did not.
    """

    rows: list[dict[str, tuple[float, ...]]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def run(
        self, trials: Mapping[str, Trial], rounds: int, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Run all trials, one after the other, in each of some rounds.

        Args:
            trials: by name, in the order in which to run them.
            rounds: how many.
            say: told what goes on.
        """
        for number in range(1, rounds + 1):
            row: dict[str, tuple[float, ...]] = {}
            self.rows.append(row)
            for name, trial in trials.items():
                say(f"round {number} of {rounds}: {name}")
                try:
                    row |= {what: tuple(values) for what, values in trial().items()}
                except BROKEN as error:
                    kind = type(error).__name__
                    self.failures.append(Failure(name, number, kind, error.message))

    def values(self, name: str) -> list[float]:
        """Return all figures of a name, in order."""
        return [value for row in self.rows for value in row.get(name, ())]

    def summary(self, name: str) -> Summary:
        """Return a name's figures in short."""
        failures = sum(failure.name == name for failure in self.failures)
        return summarise(self.values(name), failures)

    def ratio(self, over: str, under: str) -> float | None:
        """Return the median, over the rounds that have both, of one figure by another.

        Returns:
            None when there is no such round.
        """
        ratios = [
            statistics.median(row[over]) / statistics.median(row[under])
            for row in self.rows
            if row.get(over) and row.get(under)
        ]
        return statistics.median(ratios) if ratios else None


def summarise(values: Sequence[float], failures: int = 0) -> Summary:
    """Return a series in short."""
    if not values:
        return Summary(None, None, None, 0, failures)
    return Summary(statistics.median(values), min(values), max(values), len(values), failures)


def first_line(text: str) -> str:
    """Return the first line of a message."""
    return text.partition("\n")[0]
