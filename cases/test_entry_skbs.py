"""An entry's program runs on skbs as on frames: each of them, once, and its answer is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.entries import load_device, load_onward, load_verdicts
from harness.model.gates import EVERY_SKB_RUN
from harness.trace.events import CpumapEnqueue, CpumapKthread, Event, XdpAction, XdpException

if TYPE_CHECKING:
    from harness.casework import Casework

FRAMES = 120
BATCH = 8
FIRST_WARNING = "warning that is the first since it booted (pr_warn_once)"
WARNED = "an action that it cannot take is warned of"
ABORTED, DROP, PASS, TX, REDIRECT = XdpAction
ETH_P_IP = 0x0800


@pytest.mark.proves("cpu_map_bpf_prog_run_skb", "it counts what passes", since=EVERY_SKB_RUN)
def test_verdicts_on_skbs_are_counted_one_by_one(lab: Casework) -> None:
    run = lab.steer(2, entries={}, mode="generic")
    run.set(2, 512, load_verdicts(lab.guest, [PASS, DROP, PASS, ABORTED, TX, PASS]))
    lab.send(frames=FRAMES)
    books = lab.close()
    events = lab.records(CpumapKthread)
    assert sum(r.xdp_pass for r in events) == books.delivered == FRAMES // 2
    assert sum(r.xdp_drop for r in events) == FRAMES // 2


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_skb",
    "XDP_ABORTED and unknown actions are exceptions, XDP_DROP is none",
    since=EVERY_SKB_RUN,
)
def test_exceptions_on_skbs_are_traced(lab: Casework) -> None:
    run = lab.steer(2, entries={}, mode="generic")
    program = load_verdicts(lab.guest, [ABORTED, TX, PASS, DROP])
    run.set(2, 512, program)
    lab.send(frames=FRAMES)
    lab.close()
    acts = [r.act for r in lab.records(XdpException) if r.prog_id == program.id]
    assert sorted(acts) == [ABORTED] * (FRAMES // 4) + [TX] * (FRAMES // 4)


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_skb", "XDP_REDIRECT hands the skb on", since=EVERY_SKB_RUN
)
def test_skbs_go_on_to_another_entry(lab: Casework) -> None:
    run = lab.steer(1, entries={3: 512}, mode="generic")
    run.set(1, 512, load_onward(lab.guest, run.cpumap, 3), onward=(3,))
    lab.send(frames=FRAMES)
    books = lab.close()
    assert books.prog_redirect == FRAMES
    assert [row.delivered for row in books.per_cpu if row.cpu == 3] == [FRAMES]


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_skb", "XDP_REDIRECT sends the skb out by a device", since=EVERY_SKB_RUN
)
@pytest.mark.machine(nics=2)
def test_skbs_go_out_by_a_device(lab: Casework) -> None:
    run = lab.steer(1, entries={}, nics=(0, 1), mode="generic")
    run.trace_redirects()
    run.set(1, 512, load_device(lab.guest, lab.guest.ifindex["eth1"]))
    run.send([run.flow(FRAMES)])
    assert len(run.receive(FRAMES, nic=1)) == FRAMES
    assert lab.close().devices == FRAMES


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_skb",
    "what its program drops is consumed, what cannot be redirected is the kernel's own drop",
    since=EVERY_SKB_RUN,
)
@pytest.mark.parametrize(("verdict", "dropped"), [(DROP, 0), (ABORTED, 0), (REDIRECT, FRAMES)])
def test_which_drops_are_the_kernels(lab: Casework, verdict: int, dropped: int) -> None:
    run = lab.steer(2, entries={}, mode="generic")
    run.set(2, 512, load_verdicts(lab.guest, [verdict]))
    lab.guest.tracer.enable("skb/kfree_skb")
    lab.send(frames=FRAMES)
    assert lab.close().prog_drop == FRAMES
    drops = [r for r in lab.records(Event) if r.cpu == 2 and r.fields["protocol"] == ETH_P_IP]
    assert len(drops) == dropped


@pytest.mark.proves("cpu_map_bpf_prog_run", "what is redirected is flushed, whatever else passes")
@pytest.mark.proves("cpu_map_bpf_prog_run", "it flushes once for each batch")
@pytest.mark.parametrize("every", [2, 5, 8])
def test_some_go_on_and_others_pass(lab: Casework, every: int) -> None:
    run = lab.steer(1, entries={3: 512})
    run.set(1, 512, load_onward(lab.guest, run.cpumap, 3, every=every), onward=(3,))
    with lab.hold(1):
        lab.send(frames=FRAMES)
        run.wait_offered()
    books = lab.close()
    on = FRAMES // every
    assert (books.prog_redirect, books.prog_pass) == (on, FRAMES - on)
    assert {row.cpu: row.delivered for row in books.per_cpu} == {1: FRAMES - on, 3: on}
    bulks = [record for record in lab.records(CpumapEnqueue) if record.to_cpu == 3]
    assert len(bulks) == FRAMES // BATCH


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("native", marks=pytest.mark.proves("cpu_map_bpf_prog_run_xdp", WARNED)),
        pytest.param("generic", marks=pytest.mark.proves("cpu_map_bpf_prog_run_skb", WARNED)),
    ],
)
@pytest.mark.parametrize("verdict", [TX, 99])
def test_an_action_that_cannot_be_taken_is_warned_of(
    lab: Casework, verdict: int, mode: str
) -> None:
    lab.guest.must_own(FIRST_WARNING)
    run = lab.steer(2, entries={}, mode=mode)
    run.set(2, 512, load_verdicts(lab.guest, [verdict]))
    lab.send(frames=1)
    lab.close()
    assert f"XDP return value {verdict}" in lab.guest.dmesg()
