"""What the redirecting program writes in front of a frame goes with it through the map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.entries import Looker, load_onward

if TYPE_CHECKING:
    from harness.casework import Casework

FRAMES = 120
NUMBERS = list(range(FRAMES))
ways = pytest.mark.parametrize("way", ["send", "live"])


@pytest.mark.proves("cpu_map_kthread_run", "a frame's metadata goes with it to the stack")
@ways
def test_metadata_reaches_the_stack(lab: Casework, way: str) -> None:
    run = lab.steer(lab.cpus, metadata=True)
    getattr(lab, way)(FRAMES)
    lab.close()
    assert run.metadata() == NUMBERS


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp", "the program sees the frame's metadata, and hands it on"
)
@pytest.mark.proves("cpu_map_kthread_run", "a frame's metadata goes with it to the stack")
@ways
@pytest.mark.parametrize("head", [0, 16])
def test_metadata_reaches_the_entrys_program_and_the_stack_behind_it(
    lab: Casework, way: str, head: int
) -> None:
    run = lab.steer(2, entries={}, metadata=True)
    looker = Looker(lab.guest, frames=FRAMES, head=head)
    run.set(2, 512, looker.program)
    getattr(lab, way)(FRAMES)
    lab.close()
    assert [look.metadata - 1 for look in looker.looks()] == NUMBERS
    assert run.metadata() == NUMBERS


@pytest.mark.proves("cpu_map_kthread_run", "a frame's metadata goes with it to the stack")
def test_metadata_goes_through_a_chain_of_entries(lab: Casework) -> None:
    run = lab.steer(1, entries={3: 512}, metadata=True)
    run.set(1, 512, load_onward(lab.guest, run.cpumap, 3), onward=(3,))
    lab.send(FRAMES)
    lab.close()
    assert run.metadata() == NUMBERS


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp", "a frame without metadata comes to the program without"
)
def test_frames_without_metadata_get_none(lab: Casework) -> None:
    run = lab.steer(2, entries={}, metadata=False)
    looker = Looker(lab.guest, frames=FRAMES)
    run.set(2, 512, looker.program)
    lab.send(FRAMES)
    lab.close()
    assert {look.metadata for look in looker.looks()} == {0}


@pytest.mark.proves("cpu_map_generic_redirect", "an skb leaves its metadata behind")
def test_generic_redirects_leave_metadata_behind(lab: Casework) -> None:
    """netif_receive_generic_xdp notes it in the skb for XDP_PASS alone."""
    run = lab.steer(2, mode="generic", metadata=True)
    lab.send(FRAMES)
    lab.close()
    assert run.metadata() == [None] * FRAMES
