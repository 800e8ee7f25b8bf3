"""The trials that bring a guest up: a cold boot, a clone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harness.guest import PREPARED_BY, prepare
from harness.machine.machine import Machine
from harness.machine.snapshot import clone, snapshot_of

if TYPE_CHECKING:
    from harness.machine.machine import Recipe
    from harness.machine.snapshot import Snapshot

CLONES_PER_ROUND = 3
"""A clone's time is short, so one hiccup of the host is a large part of it."""


def cold_boot(recipe: Recipe) -> float:
    """Return the seconds from QEMU's start to the agent's first answer.

    Raises:
        BootFailed: it never came.
        QemuFailed: QEMU cannot be started.
    """
    start = time.monotonic()
    with Machine(recipe) as machine:
        machine.wait_boot()
        return time.monotonic() - start


def clone_up(recipe: Recipe, snapshot: Snapshot) -> float:
    """Return the seconds from QEMU's start to the first answer of a clone's agent.

    Raises:
        QemuFailed: the snapshot cannot be loaded.
        AgentLost: the clone does not answer.
    """
    start = time.monotonic()
    with clone(recipe, snapshot) as machine:
        machine.link.call("read", "/proc/version", 4096)  # what `Machine.wait_boot` asks, too
        return time.monotonic() - start


def template(recipe: Recipe) -> Snapshot:
    """Return the snapshot that the lab clones its guests from, made if it is not there.

    Raises:
        BootFailed: the guest does not come up.
        CacheError: no space.
        QemuFailed: QEMU died, or does not save.
    """
    return snapshot_of(recipe, prepare, salt=PREPARED_BY)
