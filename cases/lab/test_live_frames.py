"""What a kernel does not take as live frames is told as it says it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from harness.casework import MAX_BATCH, Casework
from harness.errors import GuestError
from harness.machine.topology import Topology
from harness.model.gates import LIVE_FRAMES

if TYPE_CHECKING:
    from harness.lab import Lab


@pytest.mark.parametrize(
    ("kernel", "batch", "expected"),
    [
        ("debian:5.10", 1, errno.EINVAL),  # it knows no such flag
        ("debian:6.1", MAX_BATCH + 1, errno.E2BIG),
        ("debian:7.3", MAX_BATCH + 1, errno.E2BIG),
    ],
)
def test_what_is_refused(workshop: Lab, kernel: str, batch: int, expected: int) -> None:
    with workshop.open(kernel, Topology()) as guest:
        run = Casework(guest).steer(1)
        with pytest.raises(GuestError) as refused:
            run.live({0: run.flow(10)}, batch=batch)
        assert refused.value.errno == expected
        assert LIVE_FRAMES.holds(guest.machine.kernel.numbers) == (batch > MAX_BATCH)
