"""A destination CPU that goes offline: its kthread moves on, and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.entries import load_verdicts
from harness.plug import set_online
from harness.trace.events import CpumapEnqueue, CpumapKthread, XdpAction

if TYPE_CHECKING:
    from harness.casework import Casework

pytestmark = pytest.mark.kconfig("HOTPLUG_CPU")
CPU = 3
QUEUED = 2000


def allowed(lab: Casework) -> str:
    """Return Cpus_allowed_list of the one cpumap kthread."""
    (pid,) = lab.guest.threads("cpumap/")
    status = lab.guest.read(f"/proc/{pid}/status")
    return next(s.split()[1] for s in status.splitlines() if s.startswith("Cpus_allowed_list"))


def kthread_cpus(lab: Casework) -> set[int]:
    return {r.kthread_cpu for r in lab.records(CpumapKthread) if r.processed}


@pytest.mark.proves("__cpu_map_entry_alloc", "the kthread of a CPU that is offline runs elsewhere")
def test_an_offline_cpu_may_have_an_entry(lab: Casework) -> None:
    set_online(lab.guest, CPU, online=False)
    run = lab.steer(CPU)
    run.unpins()
    lab.send(frames=100)
    assert lab.close().delivered == 100
    assert CPU not in kthread_cpus(lab)


@pytest.mark.proves(
    "cpu_map_bpf_prog_run", "the program of an entry whose CPU is offline runs elsewhere"
)
def test_an_offline_cpus_entry_has_its_program_run(lab: Casework) -> None:
    set_online(lab.guest, CPU, online=False)
    run = lab.steer(CPU, entries={})
    run.set(CPU, 192, load_verdicts(lab.guest, [XdpAction.PASS, XdpAction.DROP]))
    run.unpins()
    lab.send(frames=100)
    books = lab.close()
    assert (books.delivered, books.prog_drop) == (50, 50)
    assert CPU not in kthread_cpus(lab)


@pytest.mark.proves("cpu_map_kthread_run", "it goes on elsewhere when its CPU goes offline")
def test_frames_to_a_cpu_gone_offline_are_delivered_elsewhere(lab: Casework) -> None:
    run = lab.steer(CPU)
    run.unpins()
    lab.send(frames=100)
    assert run.wait_rest()
    assert kthread_cpus(lab) == {CPU}
    set_online(lab.guest, CPU, online=False)
    lab.send(frames=100)
    assert lab.close().delivered == 200
    assert kthread_cpus(lab) > {CPU}


@pytest.mark.proves(
    "__cpu_map_entry_alloc", "only a new entry's kthread is bound to a CPU that came back"
)
def test_only_an_update_binds_it_again(lab: Casework) -> None:
    run = lab.steer(CPU)
    run.unpins()
    set_online(lab.guest, CPU, online=False)
    lab.send(frames=100)
    assert run.wait_rest()
    set_online(lab.guest, CPU, online=True)
    assert allowed(lab) != str(CPU)
    run.set(CPU, 192)
    lab.wait_kthreads(1)
    assert allowed(lab) == str(CPU)
    lab.send(frames=100)
    assert lab.close().delivered == 200


@pytest.mark.proves("cpu_map_kthread_run", "it goes on elsewhere when its CPU goes offline")
def test_an_offline_cpu_with_frames_queued_loses_none(lab: Casework) -> None:
    run = lab.steer(CPU, entries={CPU: QUEUED})
    run.unpins()
    with lab.hold(CPU) as hold:
        lab.send(frames=QUEUED)
        run.wait_offered()
        hold.prove()
        # on its way out, it may run a little (balance_push)
        set_online(lab.guest, CPU, online=False)
    assert run.wait_rest()
    assert kthread_cpus(lab) - {CPU}
    lab.send(frames=50)
    assert run.wait_rest()
    set_online(lab.guest, CPU, online=True)
    lab.send(frames=50)
    assert lab.close().delivered == QUEUED + 100


@pytest.mark.proves("cpu_map_kthread_run", "asleep while its CPU is offline, it stays bound to it")
def test_a_kthread_that_slept_through_it_stays_bound(lab: Casework) -> None:
    run = lab.steer(CPU)
    lab.send(frames=100)
    assert run.wait_rest()
    lab.wait_asleep()
    for online in (False, True):
        set_online(lab.guest, CPU, online=online)
    assert allowed(lab) == str(CPU)
    lab.send(frames=100)
    assert lab.close().delivered == 200
    assert kthread_cpus(lab) == {CPU}


@pytest.mark.proves("__cpu_map_entry_alloc", "CPUs that come online later have a bulk queue, too")
def test_a_cpu_that_comes_online_later_may_produce(lab: Casework) -> None:
    set_online(lab.guest, CPU, online=False)
    run = lab.steer(2)
    set_online(lab.guest, CPU, online=True)
    run.receive_on(CPU)
    lab.send(frames=100)
    assert lab.close().delivered == 100
    assert {r.producer for r in lab.records(CpumapEnqueue)} == {CPU}
