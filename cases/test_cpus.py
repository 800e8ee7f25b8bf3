"""From one CPU to sixteen: every one of them is a destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.casework import Casework

ROUNDS = 25


@pytest.mark.proves("__cpu_map_entry_alloc", "each CPU, of 1 to 16, can be a destination")
@pytest.mark.proves("cpu_map_init", "each CPU has its list of bulk queues to flush")
@pytest.mark.parametrize(
    "cpus", [pytest.param(n, marks=pytest.mark.machine(cpus=n)) for n in (1, 2, 8, 16)]
)
def test_every_cpu_is_reached(lab: Casework, cpus: int) -> None:
    assert len(lab.cpus) == cpus
    lab.steer(lab.cpus)
    lab.send(frames=ROUNDS * cpus)
    books = lab.close()
    assert [row.delivered for row in books.per_cpu] == [ROUNDS] * cpus
    assert len(lab.kthreads()) == cpus
