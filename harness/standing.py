"""Guests that cannot be cloned: each serves one case after the other, and is reset in between."""

from __future__ import annotations

import atexit
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.agent.tracer import Rings, open_rings
from harness.guest import Guest
from harness.inventory import take_inventory, watch_pools
from harness.reset import reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.inventory import Inventory
    from harness.machine.machine import Machine, Recipe

KEPT = 3
"""Guests at the same time: cases take turns with a few topologies."""
RESET_S = 30.0


@dataclass(slots=True)
class _Standing:
    """A guest that stands by: what `prepare` returned of it, and all that there is in it."""

    machine: Machine
    prepared: dict[str, Any]
    inventory: Inventory


class StandingGuests:
    """Boots guests, lends them, and takes them back only as they were.

    Args:
        boot: starts a machine and makes it ready; returns it, and what `harness.guest.prepare` did.
    """

    def __init__(self, boot: Callable[[Recipe], tuple[Machine, dict[str, Any]]]) -> None:
        self._boot = boot
        self._idle: dict[Recipe, _Standing] = {}
        atexit.register(self.close)

    def lend(self, recipe: Recipe) -> Guest:
        """Return a guest as it was right after it booted; it comes back when it is closed.

        Raises:
            LabError: none comes up.
        """
        standing = self._idle.pop(recipe, None)
        if standing is not None and not standing.machine.runs():
            standing.machine.close()
            standing = None
        if standing is None:
            while len(self._idle) >= KEPT:
                self._idle.pop(next(iter(self._idle))).machine.close()
            standing = self._new(recipe)
        guest = Guest.of(standing.machine, standing.prepared)
        return replace(guest, give_back=lambda judged: self._take_back(guest, standing, judged))

    def close(self) -> None:
        """End all guests that stand by."""
        while self._idle:
            self._idle.popitem()[1].machine.close()

    def _new(self, recipe: Recipe) -> _Standing:
        machine, prepared = self._boot(recipe)
        with contextlib.ExitStack() as undo:
            undo.callback(machine.close)
            guest = Guest.of(machine, prepared)
            watch_pools(guest.calls)
            standing = _Standing(machine, prepared, take_inventory(guest.calls))
            undo.pop_all()
        return standing

    def _take_back(self, guest: Guest, standing: _Standing, sound: bool) -> None:
        """Reset a guest and keep it; one that is spoilt, broken or not as it was is ended.

        Raises:
            NotReset: what has been done to it cannot be undone, and nobody said so.
            LabError: it does not answer any more.
        """
        machine = standing.machine
        with contextlib.ExitStack() as undo:
            undo.callback(machine.close)
            changes = machine.recipe.topology.pluggable  # a NIC that comes back is another
            if not sound or changes or guest.spoilt or machine.hang or machine.splats():
                return
            deadline_s = RESET_S * machine.recipe.accel.pace
            reset(guest.calls, standing.inventory, deadline_s=deadline_s)
            rings = Rings(**standing.prepared["rings"])
            rings = replace(rings, fds=open_rings(guest.calls, guest.cpus))
            standing.prepared = standing.prepared | {"rings": rings.to_json()}
            self._idle[machine.recipe] = standing
            undo.pop_all()
