"""An entry that goes while frames are queued: nothing is lost silently, its kthread ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.answers import Answers
from harness.entries import load_verdicts
from harness.model.gates import EVERY_SKB_RUN, STACK_KNOWS_CPUMAP_GENERIC
from harness.trace.events import XdpAction

if TYPE_CHECKING:
    from harness.casework import Casework

QUEUED = 100


def queue(lab: Casework) -> None:
    """Put frames into the ring of CPU 3's entry; call it with its kthread held."""
    lab.send(frames=QUEUED)
    lab.run.wait_offered()


@pytest.mark.smoke
@pytest.mark.proves("cpu_map_delete_elem", "it does not wait for the kthread to end")
@pytest.mark.proves("cpu_map_delete_elem", "frames queued in a deleted entry are delivered")
@pytest.mark.proves("cpu_map_kthread_run", "told to stop, it empties its ring before it ends")
@pytest.mark.proves(
    "cpu_map_kthread_stop", "a kthread is stopped when a grace period is over, and waited for"
)
@pytest.mark.proves("get_cpu_map_entry", "its kthread holds the entry until it ends")
@pytest.mark.proves("__cpu_map_ring_cleanup", "it finds the ring empty: nothing is left to warn of")
def test_delete_delivers_what_is_queued(lab: Casework) -> None:
    run = lab.steer(3)
    with lab.hold(3):
        queue(lab)
        run.cpumap.remove(3)
        assert len(lab.kthreads()) == 1  # it has its ring to empty first
    assert lab.wait_kthreads(0) == []
    assert lab.close().delivered == QUEUED


@pytest.mark.parametrize("end", ["delete", "close"])
@pytest.mark.parametrize(
    "verdicts",
    [
        pytest.param(
            [],
            id="no program",
            marks=pytest.mark.proves(
                "cpu_map_kthread_run",
                "told to stop, it delivers the skbs of its ring too",
                since=STACK_KNOWS_CPUMAP_GENERIC,
            ),
        ),
        pytest.param(
            [XdpAction.PASS],
            id="program",
            marks=pytest.mark.proves(
                "cpu_map_bpf_prog_run",
                "a kthread that is told to stop has the program run on its ring's skbs too",
                since=EVERY_SKB_RUN,
            ),
        ),
    ],
)
def test_skbs_queued_in_an_entry_that_goes_are_delivered(
    lab: Casework, end: str, verdicts: list[int]
) -> None:
    run = lab.steer(3, mode="generic", entries={3: 192})
    if verdicts:
        run.set(3, 192, load_verdicts(lab.guest, verdicts))
    with lab.hold(3):
        queue(lab)
        if end == "delete":
            run.cpumap.remove(3)
        else:
            run.dismantle()
    assert lab.wait_kthreads(0) == []
    books = lab.close()
    assert books.delivered == QUEUED
    assert books.prog_pass == QUEUED * len(verdicts)


@pytest.mark.proves("cpu_map_update_elem", "a qsize of 0 deletes")
@pytest.mark.proves("cpu_map_kthread_run", "told to stop, it empties its ring before it ends")
def test_qsize_zero_deletes(lab: Casework) -> None:
    run = lab.steer(3)
    with lab.hold(3):
        queue(lab)
        run.cpumap.set(3, qsize=0)
    assert lab.wait_kthreads(0) == []
    lab.send(frames=1)
    books = lab.close()
    assert books.delivered == QUEUED
    assert books.aborted == 1


@pytest.mark.smoke
@pytest.mark.proves("__cpu_map_entry_replace", "frames queued in the old entry are delivered")
@pytest.mark.proves("cpu_map_kthread_run", "told to stop, it empties its ring before it ends")
def test_replace_delivers_what_is_queued(lab: Casework) -> None:
    run = lab.steer(3)
    old = set(lab.guest.threads("cpumap/"))
    with lab.hold(3):
        queue(lab)
        update = run.start_set(3, qsize=64)
    run.finish_set(update)
    assert len(lab.wait_kthreads(1)) == 1
    assert old.isdisjoint(lab.guest.threads("cpumap/"))
    lab.send(frames=QUEUED // 2)
    assert lab.close().delivered == QUEUED + QUEUED // 2


@pytest.mark.smoke
@pytest.mark.proves("cpu_map_free", "frames queued in a map that is closed are delivered")
@pytest.mark.proves("cpu_map_kthread_run", "told to stop, it empties its ring before it ends")
@pytest.mark.proves(
    "cpu_map_kthread_stop", "a kthread is stopped when a grace period is over, and waited for"
)
@pytest.mark.proves("get_cpu_map_entry", "its kthread holds the entry until it ends")
@pytest.mark.proves("__cpu_map_ring_cleanup", "it finds the ring empty: nothing is left to warn of")
def test_closing_the_map_delivers_what_is_queued(lab: Casework) -> None:
    run = lab.steer(3)
    with lab.hold(3):
        queue(lab)
        run.dismantle()
        assert len(lab.kthreads()) == 1
    assert lab.wait_kthreads(0) == []
    assert lab.close().delivered == QUEUED


@pytest.mark.proves(
    "cpu_map_kthread_run", "frames that are queued are delivered, even if the program is detached"
)
def test_detaching_the_program_keeps_what_is_queued(lab: Casework) -> None:
    run = lab.steer(3)
    with lab.hold(3):
        queue(lab)
        run.detach()
    assert run.wait_rest()
    assert len(lab.kthreads()) == 1
    assert lab.close().delivered == QUEUED


@pytest.mark.proves("__cpu_map_entry_free", "the program runs until the ring is empty")
def test_a_program_is_held_until_the_ring_is_empty(lab: Casework) -> None:
    run = lab.steer(3, entries={})
    program = load_verdicts(lab.guest, [XdpAction.PASS, XdpAction.DROP])
    prog_id = program.id
    run.set(3, 192, program)
    with lab.hold(3):
        queue(lab)
        run.dismantle()  # the entry alone holds the program now
        for _ in range(100):  # long enough for it to go, were it not held
            lab.guest.read("/proc/uptime")
        assert Answers(lab).program_lives(prog_id)
    assert lab.wait_kthreads(0) == []
    books = lab.close()
    assert (books.prog_pass, books.prog_drop) == (QUEUED // 2, QUEUED // 2)
