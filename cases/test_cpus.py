"""One CPU or sixteen: each is a destination, and so is one that is possible and not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.answers import Answers
from harness.plug import set_online
from harness.trace.events import CpumapKthread

if TYPE_CHECKING:
    from harness.casework import Casework

ROUNDS = 25
never_online = pytest.mark.machine(cpus=4, append="maxcpus=2")
accepted = pytest.mark.proves("cpu_map_update_elem", "a CPU that is offline may have an entry")
elsewhere = pytest.mark.proves(
    "__cpu_map_entry_alloc", "the kthread of a CPU that is offline runs elsewhere"
)


def kthread_cpus(lab: Casework) -> set[int]:
    return {r.kthread_cpu for r in lab.records(CpumapKthread) if r.processed}


@pytest.mark.proves("__cpu_map_entry_alloc", "each CPU, of 1 to 16, can be a destination")
@pytest.mark.proves("cpu_map_init", "each CPU has its list of bulk queues to flush")
@pytest.mark.parametrize(
    "cpus", [pytest.param(n, marks=pytest.mark.machine(cpus=n)) for n in (1, 2, 4, 8, 16)]
)
def test_every_cpu_is_reached(lab: Casework, cpus: int) -> None:
    assert len(lab.cpus) == cpus
    lab.steer(lab.cpus)
    lab.send(frames=ROUNDS * cpus)
    books = lab.close()
    assert [row.delivered for row in books.per_cpu] == [ROUNDS] * cpus
    assert len(lab.kthreads()) == cpus


@accepted
@pytest.mark.proves("cpu_map_update_elem", "a CPU that can never be there is ENODEV")
@never_online
def test_entries_of_cpus_that_were_never_online(lab: Casework) -> None:
    with Answers(lab) as ask:
        assert (ask.facts.possible, ask.facts.online) == ({0, 1, 2, 3}, {0, 1})
        cpumap = ask.cpumap(max_entries=8)
        for key in range(9):
            cpumap.update(key, 64)
            cpumap.update(key, 0)


@accepted
@elsewhere
@pytest.mark.kconfig("HOTPLUG_CPU")
@never_online
def test_a_cpu_that_comes_up_for_the_first_time(lab: Casework) -> None:
    run = lab.steer((2, 3))
    run.unpins()
    lab.send(frames=100)
    assert run.wait_rest()
    assert kthread_cpus(lab) <= {0, 1}
    set_online(lab.guest, 3, online=True)
    run.set(3, 192)
    lab.send(frames=100)
    assert lab.close().delivered == 200
    assert 3 in kthread_cpus(lab)
