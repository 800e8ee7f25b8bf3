"""The program of an entry runs on its CPU, once per frame, and what it answers is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.entries import Looker, load_device, load_onward, load_verdicts
from harness.model.gates import EVERY_SKB_RUN, FRAME_EXCEPTIONS
from harness.trace.events import CpumapKthread, XdpAction, XdpException, XdpRedirectErr

if TYPE_CHECKING:
    from harness.casework import Casework

FRAMES = 120
INVALID = 99
PASS, DROP, ABORTED, TX, REDIRECT = (
    XdpAction.PASS,
    XdpAction.DROP,
    XdpAction.ABORTED,
    XdpAction.TX,
    XdpAction.REDIRECT,
)


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("verdict", [DROP, ABORTED, TX, INVALID, REDIRECT])
def test_whatever_does_not_pass_is_dropped_and_counted(
    lab: Casework, verdict: int, mode: str
) -> None:
    lab.needs_mode(mode)
    run = lab.steer(2, entries={}, mode=mode)
    run.set(2, 512, load_verdicts(lab.guest, [verdict]))
    lab.send(frames=FRAMES)
    books = lab.close()
    batches = [r for r in lab.records(CpumapKthread) if r.processed]
    spared = mode == "generic" and not EVERY_SKB_RUN.holds(lab.kernel)
    assert books.prog_drop == (len(batches) if spared else FRAMES)
    assert books.delivered == FRAMES - books.prog_drop
    errors = [r.err for r in lab.records(XdpRedirectErr)]
    assert len(errors) == (books.prog_drop if verdict == REDIRECT else 0)


def test_verdicts_are_taken_frame_by_frame(lab: Casework) -> None:
    run = lab.steer(2, entries={})
    run.set(2, 512, load_verdicts(lab.guest, [PASS, DROP, PASS, ABORTED, TX, PASS]))
    lab.send(frames=FRAMES)
    books = lab.close()
    assert (books.prog_pass, books.prog_drop) == (FRAMES // 2, FRAMES // 2)
    assert books.delivered == FRAMES // 2


def test_the_program_runs_once_per_frame_on_the_entrys_cpu(lab: Casework) -> None:
    run = lab.steer(2, entries={})
    looker = Looker(lab.guest, frames=FRAMES)
    run.set(2, 512, looker.program)
    lab.send(frames=FRAMES)
    lab.close()
    ifindex = lab.guest.ifindex["eth0"]
    assert [(x.count, x.cpu, x.ingress_ifindex, x.rx_queue_index) for x in looker.looks()] == [
        (1, 2, ifindex, 0)
    ] * FRAMES


def test_a_program_may_move_the_frames_ends(lab: Casework) -> None:
    run = lab.steer(2, entries={}, socket=False)
    run.set(2, 512, Looker(lab.guest, frames=FRAMES, tail=20, head=16).program)
    run.resizes()
    lab.send(frames=FRAMES, size=200)
    lab.close()
    assert {hop.length for hop in run.arrivals()} == {180}


def test_a_chain_of_entries_delivers_at_its_end(lab: Casework) -> None:
    run = lab.steer(1, entries={3: 512})
    run.set(1, 512, load_onward(lab.guest, run.cpumap, 3), onward=(3,))
    lab.send(frames=FRAMES)
    books = lab.close()
    assert books.prog_redirect == FRAMES
    assert [row.delivered for row in books.per_cpu if row.cpu == 3] == [FRAMES]


def test_a_chain_into_another_map_drops_where_it_is_full(lab: Casework) -> None:
    run = lab.steer(1, entries={}, maps=2)
    run.set(3, 16, map=1)
    run.set(1, 512, load_onward(lab.guest, run.maps[1], 3), onward=(3,))
    with lab.hold(3):
        lab.send(frames=FRAMES)
        lab.wait_for(lambda: sum(r.xdp_redirect for r in lab.records(CpumapKthread)) == FRAMES)
    books = lab.close()
    assert books.queue_drops == FRAMES - 16
    assert books.delivered == 16


def test_a_missing_next_entry_is_an_abort(lab: Casework) -> None:
    run = lab.steer(1, entries={}, maps=2)
    run.set(1, 512, load_onward(lab.guest, run.maps[1], 3))
    lab.send(frames=FRAMES)
    books = lab.close()
    assert books.prog_drop == FRAMES


@pytest.mark.machine(nics=2)
def test_frames_go_out_by_a_device(lab: Casework) -> None:
    run = lab.steer(1, entries={}, nics=(0, 1))
    run.set(1, 512, load_device(lab.guest, lab.guest.ifindex["eth1"]))
    flow = run.flow(FRAMES)
    run.send([flow])
    assert len(run.receive(FRAMES, nic=1)) == FRAMES
    assert lab.close().devices == FRAMES


def test_a_program_is_replaced_under_way(lab: Casework) -> None:
    run = lab.steer(2, entries={})
    run.set(2, 512, load_verdicts(lab.guest, [DROP]))
    lab.send(frames=FRAMES)
    assert run.wait_rest()
    run.set(2, 512, load_verdicts(lab.guest, [PASS]))
    lab.send(frames=FRAMES)
    books = lab.close()
    assert (books.prog_drop, books.prog_pass) == (FRAMES, FRAMES)
    assert books.delivered == FRAMES


def test_exceptions_of_entries_are_traced(lab: Casework) -> None:
    run = lab.steer(2, entries={})
    program = load_verdicts(lab.guest, [ABORTED, TX, PASS])
    run.set(2, 512, program)
    lab.send(frames=FRAMES)
    lab.close()
    acts = [r.act for r in lab.records(XdpException) if r.prog_id == program.id]
    expected = FRAMES // 3 if FRAME_EXCEPTIONS.holds(lab.kernel) else 0
    assert (acts.count(ABORTED), acts.count(TX)) == (expected, expected)
