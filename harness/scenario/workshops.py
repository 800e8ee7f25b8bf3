"""Where scenarios run: one workshop for all guests, and one for each target."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from harness.target.address import Address

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from harness.lab import Lab
    from harness.target.lab import TargetLab


class Workshops:
    """Makes workshops when they are needed, and ends them; a context manager.

    Args:
        lab: makes the one for guests.
        say: told what takes long on a target, before it does.
    """

    def __init__(
        self, lab: Callable[[], Lab], *, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._make_lab = lab
        self._say = say
        self._lab: Lab | None = None
        self._targets: dict[str, TargetLab] = {}
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End guests that stand by, and log out of targets."""
        self._undo.close()
        self._lab = None
        self._targets.clear()

    def at(self, target: str | None) -> Lab | TargetLab:
        """Return the workshop of a target; without one, that for guests."""
        if target:
            return self._at(str(Address.parse(target)))
        if self._lab is None:
            self._lab = self._undo.enter_context(contextlib.closing(self._make_lab()))
        return self._lab

    def _at(self, target: str) -> TargetLab:
        from harness.target.lab import TargetLab  # noqa: PLC0415 - paramiko takes a while to import

        if target not in self._targets:
            lab = TargetLab(Address.parse(target), say=self._say)
            self._targets[target] = self._undo.enter_context(lab)
        return self._targets[target]
