"""Frames reach the CPU that the map's key names, each exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.casework import Casework

ROUNDS = 64


@pytest.mark.smoke
@pytest.mark.proves("cpu_map_kthread_run", "a frame is delivered once, on the CPU of its entry")
def test_round_robin_reaches_every_cpu(lab: Casework) -> None:
    lab.steer(lab.cpus)
    lab.send(frames=ROUNDS * len(lab.cpus))
    books = lab.close()
    assert {row.cpu: row.delivered for row in books.per_cpu} == dict.fromkeys(lab.cpus, ROUNDS)
    assert books.socket == ROUNDS * len(lab.cpus)
    assert books.queue_drops == 0


@pytest.mark.proves("cpu_map_kthread_run", "a frame is delivered once, on the CPU of its entry")
@pytest.mark.proves("__cpu_map_lookup_elem", "a key leads to its own entry and no other")
@pytest.mark.parametrize("cpu", range(4))
def test_one_entry_takes_all(lab: Casework, cpu: int) -> None:
    lab.steer(cpu, entries=dict.fromkeys(lab.cpus, 512))
    lab.send(frames=500)
    books = lab.close()
    assert {row.cpu for row in books.per_cpu if row.kthread} == {cpu}
    assert {row.cpu for row in books.per_cpu if row.delivered} == {cpu}
    assert books.delivered == 500


@pytest.mark.proves("cpu_map_kthread_run", "a flow keeps to its entry's CPU, in order")
def test_flows_keep_to_their_cpu(lab: Casework) -> None:
    lab.steer(lab.cpus, by="flow")
    flow = lab.run.flow(frames=100)
    lab.run.send([flow] * len(lab.cpus))
    books = lab.close()
    assert [row.delivered for row in books.per_cpu] == [100] * len(lab.cpus)
