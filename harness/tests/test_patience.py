"""Waiting for conditions, and for kernels that keep one waiting."""

from __future__ import annotations

from harness.patience import Patience


def test_a_kernel_that_keeps_cases_waiting_is_waited_for_less() -> None:
    patience = Patience()
    told = []
    for _ in range(6):
        told.append(patience.left("debian:6.1"))
        patience.lose("debian:6.1")
    assert told == [1.0, 1.0, 1.0, 1.0, 1.0, 0.25]
    assert patience.left("debian:6.12") == 1.0
