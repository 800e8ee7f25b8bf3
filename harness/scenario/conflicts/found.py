"""What a check of a scenario finds, and what several of them say or go through."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.scenario.parts import Program
    from harness.scenario.schema import Scenario

Found = tuple[tuple[str | int, ...], str]
"""Where it stands, and why it is wrong."""


def programs(scenario: Scenario) -> Iterator[tuple[tuple[str | int, ...], Program]]:
    """Return the programs of entries and steps, each with where it stands."""
    for top in ("entries", "timeline"):
        for number, part in enumerate(getattr(scenario, top)):
            if part.program:
                yield (top, number, "program"), part.program


def beyond(cpu: int, scenario: Scenario) -> str:
    """Return what to say of a CPU that the guest never has."""
    last = scenario.possible_cpus - 1
    return f"there is no CPU {cpu}: the guest has {'CPU 0' if not last else f'CPUs 0 to {last}'}"


def no_nic(nic: int, scenario: Scenario) -> str:
    """Return what to say of a NIC that the guest never has."""
    last = len(scenario.nics) - 1
    return f"there is no NIC {nic}: the guest has {'NIC 0' if not last else f'NICs 0 to {last}'}"
