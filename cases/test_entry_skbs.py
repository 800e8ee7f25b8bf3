"""An entry's program runs on skbs as on frames: each of them, once, and its answer is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.entries import load_device, load_onward, load_verdicts
from harness.model.datapath import Frame, Kthread
from harness.model.datapath import XdpException as Exceptional
from harness.model.gates import EVERY_SKB_RUN, STACK_KNOWS_CPUMAP_GENERIC
from harness.trace.events import CpumapEnqueue, CpumapKthread, Event, XdpAction, XdpException

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.casework import Casework
    from harness.model.datapath import Queue
    from harness.steering import Steering

FRAMES = 120
BATCH = 8
FIRST_WARNING = "warning that is the first since it booted (pr_warn_once)"
WARNED = "an action that it cannot take is warned of"
ABORTED, DROP, PASS, TX, REDIRECT = XdpAction
ETH_P_IP = 0x0800


UNLIKE = [PASS, DROP, PASS, ABORTED, TX, PASS, PASS, DROP, PASS, TX, PASS]
"""So many that each batch begins with another."""


def expected(lab: Casework, run: Callable[[Frame], int]) -> Queue:
    """Return what becomes of skbs that wait in a ring until all are there."""
    queue = lab.model(1, 512, run)
    for number in range(FRAMES):
        queue.cpu_map_generic_redirect(Frame(number, skb=True))
    queue.cpu_map_kthread_run()
    return queue


def send_held(lab: Casework, run: Steering) -> None:
    """Have whole batches ready for the kthread on CPU 1."""
    with lab.hold(1):
        lab.send(frames=FRAMES)
        run.wait_offered()
    assert run.wait_rest()


def told(lab: Casework, queue: Queue) -> tuple[list[Kthread], list[Kthread]]:
    """Return what the kthread on CPU 1 tells of its batches, and what it is to tell."""
    events = [r for r in lab.records(CpumapKthread) if r.processed and r.cpu == 1]
    batches = [Kthread(r.processed, 0, r.xdp_pass, r.xdp_drop, r.xdp_redirect) for r in events]
    return batches, [record for record in queue.trace if isinstance(record, Kthread)]


def on_the_stack(run: Steering, cpu: int) -> list[int]:
    """Return the numbers of those that came to the stack on a CPU."""
    return [n for n, hop in enumerate(run.arrivals()) if hop.count and hop.cpu == cpu]


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_skb",
    "what it answers to the skbs of a batch is done: before 6.15 up to the first not passed",
    since=STACK_KNOWS_CPUMAP_GENERIC,
)
def test_each_skb_of_a_batch_fares_as_it_should(lab: Casework) -> None:
    run = lab.steer(1, entries={}, mode="generic", socket=False)
    program = load_verdicts(lab.guest, UNLIKE)
    run.set(1, 512, program)
    send_held(lab, run)
    queue = expected(lab, lambda skb: UNLIKE[skb.number % len(UNLIKE)])
    batches, wanted = told(lab, queue)
    assert batches == wanted
    assert on_the_stack(run, 1) == sorted(skb.number for skb in queue.delivered)
    acts = [r.act for r in lab.records(XdpException) if r.prog_id == program.id]
    assert acts == [r.act for r in queue.trace if isinstance(r, Exceptional)]


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_skb",
    "XDP_REDIRECT hands skbs of a batch on: before 6.15 the first",
    since=STACK_KNOWS_CPUMAP_GENERIC,
)
@pytest.mark.parametrize("every", [1, 3])
def test_skbs_of_a_batch_go_on_to_another_entry(lab: Casework, every: int) -> None:
    run = lab.steer(1, entries={3: 512}, mode="generic", socket=False)
    run.set(1, 512, load_onward(lab.guest, run.cpumap, 3, every=every), onward=(3,))
    send_held(lab, run)
    queue = expected(lab, lambda skb: PASS if skb.number % every else REDIRECT)
    batches, wanted = told(lab, queue)
    assert batches == wanted
    stay = sorted(skb.number for skb in queue.delivered)
    assert on_the_stack(run, 1) == stay
    assert on_the_stack(run, 3) == sorted({*range(FRAMES)} - {*stay})


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_skb",
    "XDP_REDIRECT sends skbs of a batch out by a device: before 6.15 the first",
    since=STACK_KNOWS_CPUMAP_GENERIC,
)
@pytest.mark.machine(nics=2)
def test_skbs_of_a_batch_go_out_by_a_device(lab: Casework) -> None:
    run = lab.steer(1, entries={}, nics=(0, 1), mode="generic", socket=False)
    run.trace_redirects()
    run.set(1, 512, load_device(lab.guest, lab.guest.ifindex["eth1"]))
    send_held(lab, run)
    stay = [skb.number for skb in expected(lab, lambda _: REDIRECT).delivered]
    assert on_the_stack(run, 1) == stay
    go = FRAMES - len(stay)
    assert len(run.receive(go, nic=1)) == go
    assert lab.close().devices == go


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


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_skb",
    "the first skb of a batch that it does not pass is freed",
    since=STACK_KNOWS_CPUMAP_GENERIC,
    until=EVERY_SKB_RUN,
)
@pytest.mark.parametrize("verdict", [DROP, ABORTED, REDIRECT])
def test_what_is_not_passed_is_freed(lab: Casework, verdict: int) -> None:
    run = lab.steer(1, entries={}, mode="generic")
    run.set(1, 512, load_verdicts(lab.guest, [verdict]))  # a redirect to nowhere fails
    lab.guest.tracer.enable("skb/kfree_skb")
    send_held(lab, run)
    assert lab.close().prog_drop == FRAMES // BATCH
    freed = [r for r in lab.records(Event) if r.cpu == 1 and r.fields["protocol"] == ETH_P_IP]
    assert len(freed) == FRAMES // BATCH


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
