"""Collects laws and imbalances while the books of a run are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.trace.books import Imbalance, Kind, Law
from harness.trace.census import Named
from harness.trace.tally import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Auditor:
    """Compares what hops handed over with what the next ones have.

    Attributes:
        laws: those applied so far.
        imbalances: those found so far.
    """

    def __init__(self) -> None:
        self.laws: list[Law] = []
        self.imbalances: list[Imbalance] = []

    def law(self, name: str, left: int, right: int, explanation: str, *, holds: bool) -> None:
        """Enter a law whose places were judged by the caller."""
        self.laws.append(Law(name, left, right, holds, explanation))

    def compare(
        self,
        name: str,
        hop: str,
        left: Mapping[Place, int],
        right: Mapping[Place, int],
        explanation: str,
        *,
        said: tuple[str, str],
        lost: Callable[[Place], Named] = lambda _: Named(),
    ) -> None:
        """Enter a law that must hold at every place, and an imbalance wherever it does not.

        Args:
            name: the law as an equation.
            hop: where frames are missing when the left side is the greater.
            left: frames handed over, by place.
            right: frames found, by place.
            explanation: why both are equal.
            said: what the two sides are, for a reader.
            lost: names the frames that may be missing at a place.
        """
        holds = True
        for place in sorted(left.keys() | right.keys(), key=str):
            had, has = left.get(place, 0), right.get(place, 0)
            if had == has:
                continue
            holds = False
            kind = Kind.MISSING if had > has else Kind.EXCESS
            named = lost(place) if had > has else Named()
            self.blame(hop, kind, place, abs(had - has), f"{had} {said[0]}, {has} {said[1]}", named)
        self.law(name, sum(left.values()), sum(right.values()), explanation, holds=holds)

    def bound(
        self, hop: str, few: Mapping[Place, int], many: Mapping[Place, int], said: tuple[str, str]
    ) -> None:
        """Blame every place where what must be the lesser part is more than the whole."""
        for place in sorted(few, key=str):
            if few[place] > many.get(place, 0):
                excess = few[place] - many.get(place, 0)
                detail = f"{few[place]} {said[0]}, but only {many.get(place, 0)} {said[1]}"
                self.blame(hop, Kind.EXCESS, place, excess, detail)

    def forbid(
        self, hop: str, kind: Kind, named: Named, detail: str, place: Place | None = None
    ) -> None:
        """Blame frames that may not be, if there are any; they are known exactly."""
        if named.count:
            self.blame(hop, kind, place or Place(), named.count, detail, named)

    def blame(
        self,
        hop: str,
        kind: Kind,
        place: Place,
        count: int,
        detail: str,
        named: Named | None = None,
    ) -> None:
        """Enter an imbalance."""
        named = named or Named()
        self.imbalances.append(
            Imbalance(hop, kind, place, count, detail, named.count, named.frames)
        )
