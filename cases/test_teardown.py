"""An entry that goes while frames are queued: nothing is lost silently, its kthread ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.casework import Casework

QUEUED = 100


def queue(lab: Casework) -> None:
    """Put frames into the ring of CPU 3's entry; call it with its kthread held."""
    lab.send(frames=QUEUED)
    lab.run.wait_offered()


def test_delete_delivers_what_is_queued(lab: Casework) -> None:
    run = lab.steer(3)
    with lab.hold(3):
        queue(lab)
        run.cpumap.remove(3)
        assert len(lab.kthreads()) == 1  # it has its ring to empty first
    assert lab.wait_kthreads(0) == []
    assert lab.close().delivered == QUEUED


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


def test_closing_the_map_delivers_what_is_queued(lab: Casework) -> None:
    run = lab.steer(3)
    with lab.hold(3):
        queue(lab)
        run.dismantle()
        assert len(lab.kthreads()) == 1
    assert lab.wait_kthreads(0) == []
    assert lab.close().delivered == QUEUED


def test_detaching_the_program_keeps_what_is_queued(lab: Casework) -> None:
    run = lab.steer(3)
    with lab.hold(3):
        queue(lab)
        run.detach()
    assert run.wait_rest()
    assert len(lab.kthreads()) == 1
    assert lab.close().delivered == QUEUED
