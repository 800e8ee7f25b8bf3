"""A frame for an entry that is not there takes the action that the helper's flags name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.trace.events import XdpAction, XdpException

if TYPE_CHECKING:
    from harness.casework import Casework

FRAMES = 64


@pytest.mark.smoke
@pytest.mark.proves(
    "cpu_map_redirect", "a frame for a missing entry is aborted, and traced as an exception"
)
def test_missing_entry_is_aborted_and_traced(lab: Casework) -> None:
    lab.steer(2, entries={})
    lab.send(frames=FRAMES)
    books = lab.close()
    exceptions = [r for r in lab.guest.tracer.trace().records if isinstance(r, XdpException)]
    assert books.aborted == FRAMES
    assert len(exceptions) == FRAMES
    assert {record.act for record in exceptions} == {XdpAction.ABORTED}
    assert books.delivered == books.enqueued == 0


@pytest.mark.proves("cpu_map_redirect", "a frame for a missing entry takes the action of the flags")
@pytest.mark.parametrize(
    ("action", "account"), [(XdpAction.DROP, "dropped"), (XdpAction.PASS, "passed")]
)
def test_missing_entry_takes_the_flags_action(
    lab: Casework, action: XdpAction, account: str
) -> None:
    run = lab.steer(2, entries={}, flags=int(action))
    lab.send(frames=FRAMES)
    run.wait_offered()
    assert lab.guest.machine.hang is None  # nobody waited for a ring
    books = lab.close()
    assert getattr(books, account) == FRAMES
    assert books.delivered == (FRAMES if action is XdpAction.PASS else 0)
    assert books.enqueued == 0


@pytest.mark.proves("cpu_map_redirect", "a frame for a missing entry takes the action of the flags")
def test_missing_entry_sends_the_frame_back(lab: Casework) -> None:
    run = lab.steer(2, entries={}, flags=int(XdpAction.TX))
    lab.send(frames=FRAMES)
    assert len(run.receive(FRAMES, nic=0)) == FRAMES
    books = lab.close()
    assert books.tx == FRAMES
    assert books.delivered == books.enqueued == 0


@pytest.mark.proves("__cpu_map_lookup_elem", "a key without an entry, or beyond the map, has none")
@pytest.mark.parametrize("key", [4, 5, 2**31, 2**32 - 1])
def test_a_key_beyond_the_map_is_missing(lab: Casework, key: int) -> None:
    lab.steer(key, entries=dict.fromkeys(lab.cpus, 192))
    lab.send(frames=FRAMES)
    books = lab.close()
    assert books.aborted == FRAMES
    assert books.enqueued == 0


@pytest.mark.proves("cpu_map_delete_elem", "a deleted entry takes no more frames")
def test_deleted_entry_is_missing(lab: Casework) -> None:
    run = lab.steer(2)
    lab.send(frames=FRAMES)
    assert run.wait_rest()
    run.cpumap.remove(2)
    assert lab.wait_kthreads(0) == []
    lab.send(frames=FRAMES)
    books = lab.close()
    assert books.delivered == books.aborted == FRAMES
