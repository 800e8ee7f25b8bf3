"""Frames come from any CPU: in bulks of eight, flushed when the NAPI poll ends, in order."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from harness.entries import Looker, load_onward
from harness.model.gates import PREEMPTIBLE_SOFTIRQS, STACK_KNOWS_CPUMAP_GENERIC
from harness.trace.events import CpumapEnqueue

if TYPE_CHECKING:
    from harness.casework import Casework

BULK = 8
generic = pytest.mark.proves(
    "cpu_map_generic_redirect", "producers share a ring: none loses another's skbs or frames"
)
ROUNDS = 5
PORTS = 64


def by_producer(lab: Casework) -> Counter[tuple[int, int]]:
    """Count the frames offered by (producer, destination)."""
    counts: Counter[tuple[int, int]] = Counter()
    for record in lab.records(CpumapEnqueue):
        counts[record.producer, record.to_cpu] += record.offered
    return counts


@pytest.mark.proves("bq_enqueue", "each CPU has a bulk of its own for each entry")
@pytest.mark.proves("cpu_map_init", "each CPU has its list of bulk queues to flush")
@pytest.mark.parametrize("producer", range(4))
def test_each_cpu_reaches_each_cpu(lab: Casework, producer: int) -> None:
    run = lab.steer(lab.cpus)
    run.receive_on(producer)
    lab.send(frames=50 * len(lab.cpus))
    lab.close()
    assert by_producer(lab) == {(producer, cpu): 50 for cpu in lab.cpus}


@pytest.mark.proves("__cpu_map_flush", "every bulk queue of a poll is flushed, however many")
@pytest.mark.machine(cpus=16)
@pytest.mark.parametrize("producer", [0, 15])
def test_more_cpus_than_a_bulk_holds(lab: Casework, producer: int) -> None:
    run = lab.steer(lab.cpus)
    run.receive_on(producer)
    lab.send(frames=40 * len(lab.cpus))
    lab.close()
    assert by_producer(lab) == {(producer, cpu): 40 for cpu in lab.cpus}


@pytest.mark.proves("bq_enqueue", "a bulk of 8 is flushed before the ninth frame is appended")
@pytest.mark.proves("bq_flush_to_queue", "a bulk is offered at once and traced as one event")
def test_bulks_hold_eight_frames_at_most(lab: Casework) -> None:
    lab.guest.must_own("NIC of which a poll takes several frames")  # veth's takes each at once
    lab.steer(1, entries={1: 1024})
    lab.send(frames=500)
    lab.close()
    sizes = Counter(record.processed for record in lab.records(CpumapEnqueue))
    assert max(sizes) == BULK
    assert sum(size * count for size, count in sizes.items()) == 500


@pytest.mark.proves("__cpu_map_flush", "the end of the poll flushes what is left")
@pytest.mark.parametrize("frames", [1, 7, 8, 9])
def test_the_end_of_the_poll_flushes_what_is_left(lab: Casework, frames: int) -> None:
    lab.steer(1)
    lab.send(frames=frames)
    books = lab.close()
    assert books.delivered == frames


@pytest.mark.proves("bq_flush_to_queue", "producers share a ring: together they fill it to qsize")
@pytest.mark.machine(nics=2)
def test_two_producers_fill_one_ring(lab: Casework) -> None:
    run = lab.steer(3, entries={3: 100}, nics=(0, 1))
    for nic in (0, 1):
        run.receive_on(nic, nic=nic)
    with lab.hold(3):
        run.send([run.flow(75, nic=0), run.flow(75, nic=1)])
        run.wait_offered()
    books = lab.close()
    assert by_producer(lab) == {(0, 3): 75, (1, 3): 75}
    assert books.queue_drops == 50
    assert books.delivered == 100


@pytest.mark.proves("bq_enqueue", "entries of two maps for one CPU have bulks of their own")
@pytest.mark.proves("bq_flush_to_queue", "the event names map and CPU")
@pytest.mark.machine(nics=2)
def test_two_maps_keep_apart(lab: Casework) -> None:
    run = lab.steer(lab.cpus, nics=(0, 1), maps=2)
    run.send([run.flow(100, nic=0), run.flow(60, nic=1)])
    lab.close()
    offered = Counter[int]()
    for record in lab.records(CpumapEnqueue):
        offered[record.map_id] += record.offered
    assert offered == {run.maps[0].id: 100, run.maps[1].id: 60}


@pytest.mark.proves("bq_enqueue", "each CPU has a bulk of its own for each entry")
@pytest.mark.proves(
    "cpu_map_kthread_run", "frames of one producer stay in order, whatever others send"
)
@pytest.mark.parametrize(
    "cpus", [pytest.param(n, marks=pytest.mark.machine(cpus=n)) for n in (4, 16)]
)
def test_every_cpu_reaches_every_cpu_at_the_same_time(lab: Casework, cpus: int) -> None:
    lab.steer(lab.cpus, entries=dict.fromkeys(lab.cpus, 4096))
    for _ in range(ROUNDS):
        lab.live(10 * cpus, cpu=lab.cpus)
    assert lab.close().delivered == ROUNDS * 10 * cpus * cpus  # in order, or it is not balanced
    pairs = [(producer, cpu) for producer in lab.cpus for cpu in lab.cpus]
    assert by_producer(lab) == dict.fromkeys(pairs, ROUNDS * 10)


@pytest.mark.proves("bq_flush_to_queue", "producers share a ring: together they fill it to qsize")
@pytest.mark.machine(cpus=6)
@pytest.mark.parametrize("qsize", [1, 9, 192, 1000])
def test_four_producers_fill_one_ring(lab: Casework, qsize: int) -> None:
    """Whose frames find room is a matter of time; how many do is not."""
    run = lab.steer(5, entries={5: qsize})
    with lab.hold(5):
        lab.live(300, cpu=range(4))
        run.wait_offered()
    books = lab.close()
    assert by_producer(lab) == {(cpu, 5): 300 for cpu in range(4)}
    assert books.queue_drops == 4 * 300 - qsize
    assert books.delivered == qsize


@pytest.mark.proves("bq_flush_to_queue", "producers share a ring: together they fill it to qsize")
@pytest.mark.machine(taps=(4,))
def test_four_queues_of_one_nic_fill_one_ring(lab: Casework) -> None:
    """The driver gives each queue a CPU, whose interrupt moves there with the first frame."""
    run = lab.steer(3, entries={3: 1000}, socket=False)
    ports = range(5000, 5000 + PORTS)
    before = run.send([run.flow(4, source_port=port) for port in ports])
    run.wait_rest()
    with lab.hold(3):
        frames = run.send([run.flow(20, source_port=port) for port in ports])
        run.wait_offered()
    books = lab.close()
    flood = run.sightings()[before:]
    assert {(hop.rx_queue, hop.cpu) for hop in flood} == {(cpu, cpu) for cpu in range(4)}
    assert books.queue_drops == frames - 1000


@pytest.mark.proves(
    "cpu_map_generic_redirect",
    "an skb tells its queue to the entry's program and to the stack",
    since=STACK_KNOWS_CPUMAP_GENERIC,
)
@pytest.mark.machine(taps=(4,))
def test_an_skb_tells_its_queue(lab: Casework) -> None:
    run = lab.steer(3, entries={}, mode="generic", socket=False)
    looker = Looker(lab.guest, frames=PORTS)
    run.set(3, 512, looker.program)
    run.send([run.flow(1, source_port=port) for port in range(5000, 5000 + PORTS)])
    lab.close()
    queues = [hop.rx_queue for hop in run.sightings()]
    assert len(set(queues)) > 1
    assert [look.rx_queue_index for look in looker.looks()] == queues
    assert [hop.rx_queue - 1 for hop in run.arrivals()] == queues


@pytest.mark.proves("cpu_map_kthread_run", "a frame tells the stack no queue")
@pytest.mark.machine(taps=(4,))
def test_a_frame_tells_no_queue(lab: Casework) -> None:
    run = lab.steer(3, socket=False)
    run.send([run.flow(1, source_port=port) for port in range(5000, 5000 + PORTS)])
    lab.close()
    assert len({hop.rx_queue for hop in run.sightings()}) > 1
    assert {hop.rx_queue for hop in run.arrivals()} == {0}


@pytest.mark.proves(
    "bq_flush_to_queue", "what a full ring refuses while it is emptied is dropped and counted"
)
@pytest.mark.proves(
    "cpu_map_kthread_run", "frames of one producer stay in order, whatever others send"
)
def test_producers_and_consumer_take_turns_at_a_small_ring(lab: Casework) -> None:
    run = lab.steer(2, entries={2: 16})
    for _ in range(ROUNDS):
        lab.live(500, cpu=lab.cpus, batch=32)
    assert run.wait_rest()
    books = lab.close()
    assert by_producer(lab) == {(cpu, 2): ROUNDS * 500 for cpu in lab.cpus}
    assert books.delivered == ROUNDS * 500 * len(lab.cpus) - books.queue_drops


@pytest.mark.proves("bq_enqueue", "each CPU has a bulk queue of its own in each entry")
@pytest.mark.machine(nics=2)
@pytest.mark.parametrize(
    "mode",
    [
        "native",
        pytest.param("generic", marks=generic),
        pytest.param("mixed", marks=generic),
    ],
)
def test_two_producers_at_once(lab: Casework, mode: str) -> None:
    run = lab.steer((2, 3), entries={2: 16384, 3: 16384}, nics=(0, 1), socket=False, mode=mode)
    for nic in (0, 1):
        run.receive_on(nic, nic=nic)
    run.send([run.flow(3000, nic=0), run.flow(3000, nic=1)])
    assert lab.close().delivered == 6000


@generic
@pytest.mark.machine(nics=2)
def test_skbs_and_bulks_get_in_nobodys_way(lab: Casework) -> None:
    run = lab.steer(3, entries={3: 16384}, nics=(0, 1), socket=False, mode="mixed")
    run.receive_on(1, nic=1)
    for _ in range(6):
        lab.live(6000, cpu=0, batch=256, wire=[run.flow(1500, nic=1)])
        assert run.wait_rest()
    assert lab.close().delivered == 6 * 7500


@pytest.mark.proves("bq_flush_to_queue", "producers at one ring lose no frame to each other")
def test_producers_lose_no_frame_to_each_other(lab: Casework) -> None:
    run = lab.steer(3, entries={3: 16384}, socket=False)
    for _ in range(3):
        lab.live(3000, cpu=lab.cpus, batch=256)
        assert run.wait_rest()
    assert lab.close().delivered == 3 * 3000 * len(lab.cpus)


@pytest.mark.proves("cpu_map_bpf_prog_run", "what it sets up for the program it takes down again")
def test_a_kthread_with_a_program_on_the_cpu_that_receives(lab: Casework) -> None:
    if lab.shares_bulks:
        pytest.skip(f"{PREEMPTIBLE_SOFTIRQS.what}: cases/test_known.py shows what comes of it")
    run = lab.steer((1, 2), entries={2: 16384}, socket=False)
    run.set(1, 16384, load_onward(lab.guest, run.cpumap, 2, every=2), onward=(2,))
    run.receive_on(1)
    for _ in range(10):  # what interrupts the program has to come between a few instructions
        lab.send(frames=4000)
        assert run.wait_rest()
    assert lab.close().delivered == 40000
