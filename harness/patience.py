"""Waiting for a condition, with a limit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S = 0.005


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
