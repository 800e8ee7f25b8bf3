"""What the tracepoints tell, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.model.datapath import Frame, Kthread, Received
from harness.model.gates import GRO, LIST_DELIVERY, STACK_KNOWS_CPUMAP_GENERIC, TRACED_BEFORE_STACK
from harness.trace.events import (
    CpumapEnqueue,
    CpumapKthread,
    Event,
    XdpRedirect,
    XdpRedirectErr,
)

if TYPE_CHECKING:
    from harness.casework import Casework

CPU, QSIZE = 2, 192


@pytest.mark.proves(
    "cpu_map_kthread_run", "a batch is traced before the stack gets it", since=TRACED_BEFORE_STACK
)
@pytest.mark.proves(
    "cpu_map_kthread_run", "a batch is traced when the stack has it", until=TRACED_BEFORE_STACK
)
def test_when_a_batch_is_traced(lab: Casework) -> None:
    run, queue = lab.steer(CPU), lab.model(CPU, QSIZE)
    lab.guest.tracer.enable("net/netif_receive_skb")
    with lab.hold(CPU):
        lab.send(frames=20)
        run.wait_offered()
    lab.close()
    queue.poll(20)
    queue.cpu_map_kthread_run()
    expected = [type(r) for r in queue.trace if isinstance(r, Kthread | Received)]
    records = [r for r in lab.guest.tracer.trace().records if r.cpu == CPU]
    kinds = {CpumapKthread: Kthread, Event: Received}
    assert [kinds[type(r)] for r in records if type(r) in kinds] == expected


@pytest.mark.proves(
    "cpu_map_kthread_run",
    "of a batch, skbs reach the stack before frames",
    since=STACK_KNOWS_CPUMAP_GENERIC,
    until=GRO,
)
@pytest.mark.proves(
    "cpu_map_kthread_run", "of a batch, frames reach the stack before skbs", since=GRO
)
@pytest.mark.machine(nics=2)
def test_in_which_order_a_batch_is_delivered(lab: Casework) -> None:
    run, queue = lab.steer(CPU, nics=(0, 1), mode="mixed"), lab.model(CPU, QSIZE)
    with lab.hold(CPU):
        for nic, frames in ((0, 3), (1, 2), (0, 2), (1, 3), (0, 1)):
            for number in range(run.sent, run.sent + frames):
                if nic:
                    queue.cpu_map_generic_redirect(Frame(number, skb=True))
                else:
                    queue.bq_enqueue(Frame(number), 0)
            queue.cpu_map_flush(0)
            run.send([run.flow(frames, nic=nic)])
            run.wait_offered()
    lab.close()
    queue.cpu_map_kthread_run()
    hops = run.arrivals()
    arrived = sorted(range(run.sent), key=lambda number: hops[number].order)
    assert arrived == [frame.number for frame in queue.delivered]


@pytest.mark.proves(
    "cpu_map_kthread_run", "what the stack drops does not count as dropped", since=LIST_DELIVERY
)
@pytest.mark.proves(
    "cpu_map_kthread_run", "what the stack drops counts as dropped", until=LIST_DELIVERY
)
def test_what_the_stack_drops(lab: Casework) -> None:
    lab.steer(CPU, socket=False)  # tc ingress drops every frame
    lab.send(frames=40)
    lab.close()
    drops = sum(record.drops for record in lab.records(CpumapKthread))
    assert drops == (0 if LIST_DELIVERY.holds(lab.kernel) else 40)


@pytest.mark.proves("cpu_map_kthread_run", "the first batch after a sleep is traced with sched=1")
@pytest.mark.proves("cpu_map_kthread_run", "when it is told to stop, it traces a batch of none")
def test_sleeping_and_stopping(lab: Casework) -> None:
    run = lab.steer(CPU)
    lab.wait_asleep()
    with lab.hold(CPU):
        lab.send(frames=20)
        run.wait_offered()
    assert run.wait_rest()
    lab.wait_asleep()
    run.cpumap.remove(CPU)
    assert lab.wait_kthreads(0) == []
    lab.close()
    events = lab.records(CpumapKthread)
    first = next(event for event in events if event.processed)
    assert (first.processed, first.sched) == (8, 1)
    assert (events[-1].processed, events[-1].sched) == (0, 1)


@pytest.mark.proves("cpu_map_enqueue", "a frame counts as redirected before its ring is tried")
def test_redirects_of_frames(lab: Casework) -> None:
    run = lab.steer(CPU, entries={CPU: 8})
    run.trace_redirects()
    with lab.hold(CPU):
        lab.send(frames=20)
        run.wait_offered()
    lab.close()
    redirects = lab.records(XdpRedirect)
    assert {(r.map_id, r.map_index, r.err) for r in redirects} == {(run.cpumap.id, CPU, 0)}
    for bulk in lab.records(CpumapEnqueue):
        before = sum(r.ts < bulk.ts for r in redirects)
        assert before == sum(b.offered for b in lab.records(CpumapEnqueue) if b.ts <= bulk.ts)


@pytest.mark.proves(
    "cpu_map_generic_redirect", "an skb counts as redirected if its ring has taken it"
)
def test_redirects_of_skbs(lab: Casework) -> None:
    run = lab.steer(CPU, entries={CPU: 8}, mode="generic")
    run.trace_redirects()
    with lab.hold(CPU):
        lab.send(frames=20)
        run.wait_offered()
    lab.close()
    records = lab.guest.tracer.trace().records
    kinds = (CpumapEnqueue, XdpRedirect, XdpRedirectErr)
    assert [type(r) for r in records if isinstance(r, kinds)] == [
        *[CpumapEnqueue, XdpRedirect] * 8,
        *[CpumapEnqueue, XdpRedirectErr] * 12,
    ]
