"""The program of an entry runs on its CPU, once per frame, and what it answers is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.entries import Looker, load_device, load_onward, load_verdicts
from harness.model.gates import EVERY_SKB_RUN, FRAME_EXCEPTIONS
from harness.trace.events import CpumapKthread, Event, XdpAction, XdpException, XdpRedirectErr

if TYPE_CHECKING:
    from harness.casework import Casework

FRAMES = 120
MODES = [
    "native",
    pytest.param(
        "generic",
        marks=pytest.mark.proves(
            "cpu_map_bpf_prog_run_skb", "the program of an entry runs on skbs"
        ),
    ),
]
LITTLE = (1, 1, 7, 8, 9, 17)
INVALID = 99
PASS, DROP, ABORTED, TX, REDIRECT = (
    XdpAction.PASS,
    XdpAction.DROP,
    XdpAction.ABORTED,
    XdpAction.TX,
    XdpAction.REDIRECT,
)


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp",
    "DROP, ABORTED, TX, unknown actions and failed redirects drop the frame and count as xdp_drop",
)
@pytest.mark.proves(
    "cpu_map_bpf_prog_run_skb",
    "each skb of a batch that is not passed is dropped",
    since=EVERY_SKB_RUN,
)
@pytest.mark.proves(
    "cpu_map_bpf_prog_run_skb",
    "the first skb that is not passed ends the run: the batch's others bypass the program",
    until=EVERY_SKB_RUN,
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("verdict", [DROP, ABORTED, TX, INVALID, REDIRECT])
def test_whatever_does_not_pass_is_dropped_and_counted(
    lab: Casework, verdict: int, mode: str
) -> None:
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


@pytest.mark.smoke
@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp",
    "each frame of a batch has its own verdict, counted as xdp_pass or xdp_drop",
)
def test_verdicts_are_taken_frame_by_frame(lab: Casework) -> None:
    run = lab.steer(2, entries={})
    run.set(2, 512, load_verdicts(lab.guest, [PASS, DROP, PASS, ABORTED, TX, PASS]))
    lab.send(frames=FRAMES)
    books = lab.close()
    assert (books.prog_pass, books.prog_drop) == (FRAMES // 2, FRAMES // 2)
    assert books.delivered == FRAMES // 2


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp", "the program runs once for each frame, on the entry's CPU"
)
@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp", "the program sees the frame's device, and 0 for its queue"
)
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


@pytest.mark.proves("cpu_map_enqueue", "a frame keeps the device that it came in by")
@pytest.mark.machine(nics=2)
def test_frames_keep_the_device_that_they_came_in_by(lab: Casework) -> None:
    run = lab.steer(2, entries={}, nics=(0, 1))
    looker = Looker(lab.guest, frames=FRAMES)
    run.set(2, 512, looker.program)
    lab.guest.tracer.enable("net/netif_receive_skb")
    with lab.hold(2):  # so that a batch has frames of both
        for nic in (0, 1) * 4:
            run.send([run.flow(3, nic=nic)])
            run.wait_offered()
    lab.close()
    came = [name for name in ("eth0", "eth1") * 4 for _ in range(3)]
    looks = looker.looks()[: run.sent]
    assert [look.ingress_ifindex for look in looks] == [lab.guest.ifindex[name] for name in came]
    assert [event.fields["name"] for event in lab.records(Event)] == came


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp", "a frame arrives with the ends that its program gave it"
)
def test_a_program_may_move_the_frames_ends(lab: Casework) -> None:
    run = lab.steer(2, entries={}, socket=False)
    run.set(2, 512, Looker(lab.guest, frames=FRAMES, tail=20, head=16).program)
    run.resizes()
    lab.send(frames=FRAMES, size=200)
    lab.close()
    assert {hop.length for hop in run.arrivals()} == {180}


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp", "a frame arrives with the ends that its program gave it"
)
def test_a_frame_may_move_as_a_whole(lab: Casework) -> None:
    """A VLAN tag goes, padding comes: the length says nothing."""
    run = lab.steer(2, entries={})
    run.set(2, 512, Looker(lab.guest, frames=FRAMES, untag=True).program)
    lab.send(frames=FRAMES, vlan=7, size=200)
    assert lab.close().socket == FRAMES
    assert {hop.length for hop in run.arrivals()} == {200}


@pytest.mark.proves("cpu_map_bpf_prog_run", "what a batch redirects is flushed with the batch")
def test_a_chain_of_entries_delivers_at_its_end(lab: Casework) -> None:
    run = lab.steer(1, entries={3: 512})
    run.set(1, 512, load_onward(lab.guest, run.cpumap, 3), onward=(3,))
    lab.send(frames=FRAMES)
    books = lab.close()
    assert books.prog_redirect == FRAMES
    assert [row.delivered for row in books.per_cpu if row.cpu == 3] == [FRAMES]


@pytest.mark.proves("cpu_map_bpf_prog_run", "what a batch redirects is flushed with the batch")
def test_a_chain_leaves_nothing_behind(lab: Casework) -> None:
    """The kthread flushes what its program redirected, however little that is."""
    run = lab.steer(1, entries={3: 512})
    run.set(1, 512, load_onward(lab.guest, run.cpumap, 3), onward=(3,))
    for frames in LITTLE:
        lab.live(frames, batch=256)
        assert run.wait_rest()
    assert lab.close().delivered == run.taken_on(3) == sum(LITTLE)


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp",
    "a redirected frame counts as xdp_redirect, even if the next ring drops it",
)
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


@pytest.mark.proves("cpu_map_bpf_prog_run_xdp", "a redirect to a missing entry is an abort")
def test_a_missing_next_entry_is_an_abort(lab: Casework) -> None:
    run = lab.steer(1, entries={}, maps=2)
    run.set(1, 512, load_onward(lab.guest, run.maps[1], 3))
    lab.send(frames=FRAMES)
    books = lab.close()
    assert books.prog_drop == FRAMES


@pytest.mark.proves("cpu_map_bpf_prog_run", "what a batch redirects to a device is sent")
@pytest.mark.machine(nics=2)
def test_frames_go_out_by_a_device(lab: Casework) -> None:
    run = lab.steer(1, entries={}, nics=(0, 1))
    run.set(1, 512, load_device(lab.guest, lab.guest.ifindex["eth1"]))
    flow = run.flow(FRAMES)
    run.send([flow])
    assert len(run.receive(FRAMES, nic=1)) == FRAMES
    assert lab.close().devices == FRAMES


@pytest.mark.proves("cpu_map_bpf_prog_run", "what a batch redirects to a device is sent")
@pytest.mark.machine(nics=2)
def test_a_device_gets_every_frame_at_once(lab: Casework) -> None:
    run = lab.steer(1, entries={}, nics=(0, 1))
    run.set(1, 512, load_device(lab.guest, lab.guest.ifindex["eth1"]))
    for frames in LITTLE:
        lab.live(frames, batch=256)
        assert len(run.receive(frames, nic=1)) == frames
    assert lab.close().devices == sum(LITTLE)


@pytest.mark.proves(
    "__cpu_map_entry_replace", "when an update returns, new frames meet the new program"
)
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


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp",
    "ABORTED and unknown actions on frames are traced as exceptions",
    since=FRAME_EXCEPTIONS,
)
@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp",
    "no verdict on a frame is traced as an exception",
    until=FRAME_EXCEPTIONS,
)
def test_exceptions_of_entries_are_traced(lab: Casework) -> None:
    run = lab.steer(2, entries={})
    program = load_verdicts(lab.guest, [ABORTED, TX, PASS, DROP])
    run.set(2, 512, program)
    lab.send(frames=FRAMES)
    lab.close()
    acts = [r.act for r in lab.records(XdpException) if r.prog_id == program.id]
    expected = FRAMES // 4 if FRAME_EXCEPTIONS.holds(lab.kernel) else 0
    assert sorted(acts) == [ABORTED] * expected + [TX] * expected


@pytest.mark.proves("cpu_map_bpf_prog_run_xdp", "ABORTED is not warned of", since=FRAME_EXCEPTIONS)
@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp",
    "ABORTED is warned of in dmesg, as an action that cannot be taken",
    until=FRAME_EXCEPTIONS,
)
def test_whether_the_kernel_warns_of_aborted_frames(lab: Casework) -> None:
    lab.guest.must_own("warning that is the first since it booted (pr_warn_once)")
    run = lab.steer(2, entries={})
    run.set(2, 512, load_verdicts(lab.guest, [ABORTED]))
    lab.send(frames=FRAMES)
    assert lab.close().prog_drop == FRAMES
    warned = "XDP return value 0" in lab.guest.dmesg()
    assert warned != FRAME_EXCEPTIONS.holds(lab.kernel)
