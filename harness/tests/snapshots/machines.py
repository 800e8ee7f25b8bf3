"""Machines that are none: they have RAM and a state, and can be told what goes wrong."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from harness.machine.snapshot import (
    Snapshot,
    snapshot_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from harness.errors import CacheError
    from harness.machine.machine import Recipe


RAM_BYTES = 8 << 20
PREPARED = {"ifindex": {"lo": 1, "eth0": 2}, "rings": [1, 2, 3]}


class FakeMachine:
    """Has RAM, a state to save, and can be told what goes wrong."""

    made: ClassVar[list[FakeMachine]] = []
    boot: ClassVar[Callable[[], None]] = lambda: None
    migration: ClassVar[dict[str, str]] = {"status": "completed"}
    state: ClassVar[bytes] = b"device state"
    full: ClassVar[CacheError | None] = None

    def __init__(
        self,
        recipe: Recipe,
        *,
        ram: Path | None = None,
        share_ram: bool = False,
        incoming: bool = False,
    ) -> None:
        self.recipe = recipe
        self.ram = ram
        self.incoming = incoming
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.closed = False
        self.status = "paused" if incoming else "running"
        type(self).made.append(self)
        if share_ram and ram:
            with ram.open("wb") as file:
                file.truncate(RAM_BYTES)
                os.pwrite(file.fileno(), b"data in the middle", 5 << 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def wait_boot(self) -> None:
        type(self).boot()

    def settling(self) -> AbstractContextManager[None]:
        return nullcontext()

    def no_room(self) -> CacheError | None:
        return type(self).full

    def qmp(self, name: str, **arguments: Any) -> Any:
        self.said.append((name, arguments))
        if name == "migrate":
            self.status = "postmigrate"
            if arguments["uri"].startswith("file:"):
                Path(arguments["uri"].removeprefix("file:")).write_bytes(self.state)
        if name == "query-migrate":
            return self.migration
        return {"status": self.status}


def take(recipe: Recipe, salt: str = "salt") -> Snapshot:
    return snapshot_of(recipe, lambda _: PREPARED, salt=salt)


def boots() -> int:
    """Return how many templates were booted."""
    return sum(not machine.incoming for machine in FakeMachine.made)


def left(root: Path) -> set[str]:
    """Return what there is in the room of the snapshots, locks aside."""
    return {path.name for path in root.iterdir() if not path.name.endswith(".lock")}
