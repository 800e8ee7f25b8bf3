"""CPUs and NICs that are plugged in and taken out while frames are on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.answers import Answers
from harness.guest import interface_name
from harness.plug import plug_cpu, plug_nic, set_link, unplug_cpu, unplug_nic
from harness.trace.events import CpumapEnqueue, CpumapKthread

if TYPE_CHECKING:
    from harness.casework import Casework

pytestmark = pytest.mark.kconfig("HOTPLUG_CPU", "ACPI_HOTPLUG_CPU", "HOTPLUG_PCI_ACPI")
SPARE = 4
QUEUED = 2000
with_spare_cpu = pytest.mark.machine(cpus=SPARE, spare_cpus=1)
with_two_nics = pytest.mark.machine(nics=2, pluggable=True)


def present(lab: Casework) -> str:
    return lab.guest.read("/sys/devices/system/cpu/present").strip()


def kthread_cpus(lab: Casework) -> set[int]:
    return {r.kthread_cpu for r in lab.records(CpumapKthread) if r.processed}


@with_spare_cpu
@pytest.mark.proves(
    "cpu_map_update_elem", "a CPU that is possible may have an entry, present or not"
)
def test_a_cpu_that_is_not_plugged_in_may_have_an_entry(lab: Casework) -> None:
    assert present(lab) == "0-3"
    with Answers(lab) as ask:
        ask.cpumap(max_entries=SPARE + 1).update(SPARE)


@with_spare_cpu
@pytest.mark.proves("__cpu_map_entry_alloc", "the kthread of a CPU that is offline runs elsewhere")
def test_the_kthread_of_a_cpu_that_is_not_plugged_in_runs_elsewhere(lab: Casework) -> None:
    run = lab.steer(SPARE)
    run.unpins()
    lab.send(frames=100)
    assert lab.close().delivered == 100
    assert SPARE not in kthread_cpus(lab)


@with_spare_cpu
@pytest.mark.smoke
@pytest.mark.proves("__cpu_map_entry_alloc", "a CPU that was plugged in has kthreads of its own")
def test_a_cpu_plugged_in_under_load_becomes_a_destination(lab: Casework) -> None:
    run = lab.steer((2, SPARE), entries={2: 4096}, by="port", socket=False)
    with run.sending([run.flow(3000, destination_port=2)], rate=6000):
        plug_cpu(lab.guest, SPARE)
        run.set(SPARE, 192)
    run.send([run.flow(100, destination_port=3)])
    books = lab.close()
    assert present(lab) == "0-4"
    assert {row.cpu: row.delivered for row in books.per_cpu if row.delivered} == {
        2: 3000,
        SPARE: 100,
    }
    assert kthread_cpus(lab) == {2, SPARE}


@with_spare_cpu
@pytest.mark.proves("cpu_map_enqueue", "a CPU that was plugged in produces, too")
def test_a_cpu_plugged_in_may_produce(lab: Casework) -> None:
    run = lab.steer(2)
    plug_cpu(lab.guest, SPARE)
    run.receive_on(SPARE)
    lab.send(frames=100)
    assert lab.close().delivered == 100
    assert {r.producer for r in lab.records(CpumapEnqueue)} == {SPARE}


@with_spare_cpu
@pytest.mark.proves("cpu_map_kthread_run", "it goes on elsewhere when its CPU is taken out")
def test_a_cpu_unplugged_with_frames_queued_loses_none(lab: Casework) -> None:
    plug_cpu(lab.guest, SPARE)
    run = lab.steer(SPARE, entries={SPARE: QUEUED})
    run.unpins()
    with lab.hold(SPARE) as hold:
        lab.send(frames=QUEUED)
        run.wait_offered()
        hold.prove()
        unplug_cpu(lab.guest, SPARE)
    assert present(lab) == "0-3"
    assert run.wait_rest()
    lab.send(frames=100)
    assert lab.close().delivered == QUEUED + 100
    assert kthread_cpus(lab) - {SPARE}


@with_spare_cpu
@pytest.mark.proves(
    "__cpu_map_entry_alloc", "only a new entry's kthread is bound to a CPU that came back"
)
def test_a_cpu_may_come_and_go_under_load(lab: Casework) -> None:
    run = lab.steer((2, SPARE))
    run.unpins()
    with run.sending([run.flow(6000)], rate=4000):
        for _ in range(2):
            plug_cpu(lab.guest, SPARE)
            run.set(SPARE, 192)
            unplug_cpu(lab.guest, SPARE)
    books = lab.close()
    assert books.delivered + books.queue_drops == 6000


@with_two_nics
@pytest.mark.smoke
@pytest.mark.proves("bq_enqueue", "frames of one device go on while another comes and goes")
def test_a_nic_comes_and_goes_while_another_is_busy(lab: Casework) -> None:
    run = lab.steer((1, 2), entries={1: 4096, 2: 4096}, nics=(0, 1))
    run.send([run.flow(100, nic=1)])
    assert run.wait_rest()  # no frame in a ring holds its device (test_known.py)
    with run.sending([run.flow(3000)], rate=4000):
        unplug_nic(lab.guest, 1)
        assert not lab.guest.has_interface(interface_name(1))
        plug_nic(lab.guest, 1)
        run.reattach(1)
    run.send([run.flow(100, nic=1)])
    assert lab.close().delivered == 3200


@with_two_nics
@pytest.mark.proves("cpu_map_kthread_run", "frames in the ring outlive their device's link")
def test_the_link_goes_down_with_frames_queued(lab: Casework) -> None:
    run = lab.steer(2, entries={2: 512}, nics=(0, 1))
    with lab.hold(2) as hold:
        run.send([run.flow(200, nic=1)])
        run.wait_offered()
        set_link(lab.guest, 1, up=False)
        run.send([run.flow(200)])
        run.wait_offered()
        hold.prove()
    assert run.wait_rest()
    set_link(lab.guest, 1, up=True)
    run.send([run.flow(100, nic=1)])
    assert lab.close().delivered == 500
