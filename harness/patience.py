"""Waiting for a condition, with a limit; and for a kernel that keeps one waiting."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S = 0.005
VAIN = 5
LEFT = 0.25


def wait_until(met: Callable[[], object], limit_s: float, *, poll_s: float = POLL_S) -> bool:
    """Wait until a condition is met, and tell whether it was; it is asked for at least once.

    Args:
        met: the condition; it is asked again and again.
        limit_s: how long it may take.
        poll_s: between two askings.
    """
    deadline = time.monotonic() + limit_s
    while not met():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True


class Patience:
    """How long cases wait for a kernel: a quarter as long once five have failed in vain waiting.

    A kernel that delivers nothing would else keep most of them waiting to the last second.
    """

    def __init__(self) -> None:
        self._vain: Counter[str] = Counter()

    def lose(self, spec: str) -> None:
        """Note that a case has failed on a kernel for which it had waited in vain."""
        self._vain[spec] += 1

    def left(self, spec: str) -> float:
        """Return what is left of the patience with a kernel; 1.0 is all."""
        return LEFT if self._vain[spec] >= VAIN else 1.0
