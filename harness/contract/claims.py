"""What a case claims to prove: its marks."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.contract.functions import FUNCTIONS
from harness.errors import UserError

if TYPE_CHECKING:
    import pytest

    from harness.model.gates import Gate

MARK = "proves"
KCONFIG = "kconfig"
"""The mark that names what a case's kernel must be built with."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One `@pytest.mark.proves(…)`.

    Attributes:
        function: of cpumap.c.
        behaviour: what it does.
        since: the gate from which on it does so; None: all the time that there is the function.
        until: the gate from which on it does so no longer.

    Raises:
        UserError: there is no such function.
    """

    function: str
    behaviour: str
    since: Gate | None = None
    until: Gate | None = None

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            near = difflib.get_close_matches(self.function, FUNCTIONS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"{self.function} is no function of cpumap.c{hint}",
                remedy="harness/contract/functions.py has them all",
            )

    @property
    def opening(self) -> list[Gate]:
        """The gates that it needs."""
        return [gate for gate in (self.since, FUNCTIONS[self.function].since) if gate]

    @property
    def closing(self) -> list[Gate]:
        """The gates that end it."""
        return [gate for gate in (self.until, FUNCTIONS[self.function].until) if gate]

    def holds(self, kernel: tuple[int, ...]) -> bool:
        """Return whether a kernel of these version numbers is to behave so."""
        return self.why_not(kernel) is None

    def why_not(self, kernel: tuple[int, ...]) -> str | None:
        """Return why it does not hold on a kernel, None if it does."""
        for gate in self.opening:
            if not gate.holds(kernel):
                return f"{gate.what}: since {show(gate.since)}"
        for gate in self.closing:
            if gate.holds(kernel):
                return f"{self.behaviour}: until {show(gate.since)}"
        return None


def claims_of(item: pytest.Item) -> list[Claim]:
    """Return all that a case claims, in the order of its marks."""
    return [claim_of(mark) for mark in item.iter_markers(MARK)][::-1]


def options_wanted(item: pytest.Item) -> list[str]:
    """Return the options, without CONFIG_, that a case's kernel must be built with."""
    return [name for mark in item.iter_markers(KCONFIG) for name in mark.args]


def why_not(item: pytest.Item, kernel: tuple[int, ...]) -> str | None:
    """Return why a case cannot run on a kernel: nothing of what it claims holds there.

    What the parameters of a variant claim must all hold: the variant is about that.
    """
    variant = getattr(item, "callspec", None)
    own = [claim_of(mark) for mark in variant.marks if mark.name == MARK] if variant else []
    reasons = [claim.why_not(kernel) for claim in own or claims_of(item)]
    if own:
        return next(filter(None, reasons), None)
    return reasons[0] if reasons and all(reasons) else None


def claim_of(mark: pytest.Mark) -> Claim:
    """Read a mark."""
    return Claim(*mark.args, **mark.kwargs)


def show(version: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))
