from __future__ import annotations

import errno

import pytest

from harness.model.control import Entry, Prog
from harness.model.datapath import (
    Enqueue,
    Frame,
    Kthread,
    Queue,
    Received,
    RedirectErr,
    XdpException,
)
from harness.model.facts import Facts

V510, V61, V612, V73 = (5, 10, 262), (6, 1, 192), (6, 12, 117), (7, 3, 4)
ABORTED, DROP, PASS, TX, REDIRECT = range(5)
PROG = Prog(9)


def queue(qsize: int, kernel: tuple[int, ...] = V73, prog: Prog | None = None) -> Queue:
    return Queue(Facts(kernel), Entry(3, 1, qsize, prog))


def poll(q: Queue, frames: int, *, first: int = 0, cpu: int = 0) -> None:
    for number in range(first, first + frames):
        q.bq_enqueue(Frame(number), cpu)
    q.cpu_map_flush(cpu)


def enqueues(q: Queue) -> list[tuple[int, int]]:
    return [(r.processed, r.drops) for r in q.trace if isinstance(r, Enqueue)]


def batches(q: Queue) -> list[Kthread]:
    return [r for r in q.trace if isinstance(r, Kthread)]


def test_bulks_are_of_eight() -> None:
    q = queue(192)
    poll(q, 20)
    assert enqueues(q) == [(8, 0), (8, 0), (4, 0)]


def test_a_bulk_of_eight_wakes_nobody() -> None:
    q = queue(192)
    for number in range(9):
        q.bq_enqueue(Frame(number), 0)
    assert enqueues(q) == [(8, 0)]
    assert not q.awake
    q.cpu_map_flush(0)
    assert q.awake


@pytest.mark.parametrize("qsize", [1, 2, 7, 8, 9, 31, 32, 33, 64, 100, 192, 255])
def test_a_sleeping_kthread_s_ring_takes_qsize(qsize: int) -> None:
    q = queue(qsize)
    poll(q, 256)
    assert len(enqueues(q)) == 32
    assert sum(processed for processed, _ in enqueues(q)) == 256
    assert sum(drops for _, drops in enqueues(q)) == 256 - qsize
    q.cpu_map_kthread_run()
    assert [frame.number for frame in q.delivered] == list(range(qsize))


@pytest.mark.parametrize(("qsize", "total"), [(8, 9), (31, 32), (32, 32), (64, 64), (128, 128)])
def test_a_plug_costs_a_slot_of_a_lazy_ring(qsize: int, total: int) -> None:
    q = queue(qsize)
    poll(q, 1)
    q.cpu_map_kthread_run()
    poll(q, 256, first=1)
    q.cpu_map_kthread_run()
    assert len(q.delivered) == total


def test_producers_share_the_ring() -> None:
    q = queue(100)
    for cpu in range(3):
        poll(q, 64, first=64 * cpu, cpu=cpu)
    assert len(enqueues(q)) == 24
    assert sum(drops for _, drops in enqueues(q)) == 92


def test_the_kthread_takes_eight_at_a_time() -> None:
    q = queue(192)
    poll(q, 20)
    q.cpu_map_kthread_run(stop=True)
    assert [batch.processed for batch in batches(q)] == [8, 8, 4, 0]


def test_generic_drops_are_told_twice() -> None:
    q = queue(16)
    answers = [q.cpu_map_generic_redirect(Frame(number, skb=True)) for number in range(40)]
    assert answers == [0] * 16 + [errno.ENOSPC] * 24
    assert enqueues(q).count((1, 0)) == 16
    assert enqueues(q).count((0, 1)) == 24
    assert q.trace.count(RedirectErr(-errno.ENOSPC)) == 24


def test_5_10_has_no_generic_path() -> None:
    q = queue(16, V510)
    assert q.cpu_map_generic_redirect(Frame(0, skb=True)) == errno.EBADRQC
    assert q.trace == [RedirectErr(-errno.EBADRQC)]


@pytest.mark.parametrize(("kernel", "delivered"), [(V61, 21), (V612, 21), (V73, 0)])
def test_generic_frames_bypass_a_dropping_program_before_6_15(
    kernel: tuple[int, ...], delivered: int
) -> None:
    q = queue(192, kernel, PROG)
    q.run = lambda _: DROP
    for number in range(24):
        q.cpu_map_generic_redirect(Frame(number, skb=True))
    q.cpu_map_kthread_run()
    assert len(q.delivered) == delivered
    assert sum(batch.xdp_drop for batch in batches(q)) == 24 - delivered


@pytest.mark.parametrize(("kernel", "counted"), [(V61, 0), (V612, 0), (V73, 24)])
def test_passed_skbs_count_since_6_15(kernel: tuple[int, ...], counted: int) -> None:
    q = queue(192, kernel, PROG)
    for number in range(24):
        q.cpu_map_generic_redirect(Frame(number, skb=True))
    q.cpu_map_kthread_run()
    assert sum(batch.xdp_pass for batch in batches(q)) == counted
    assert len(q.delivered) == 24


@pytest.mark.parametrize(("kernel", "traced"), [(V61, 0), (V612, 0), (V73, 3)])
def test_exceptions_of_frames(kernel: tuple[int, ...], traced: int) -> None:
    q = queue(192, kernel, PROG)
    q.run = lambda frame: (ABORTED, DROP, PASS, TX, REDIRECT, 99)[frame.number]
    poll(q, 6)
    q.cpu_map_kthread_run()
    (batch,) = batches(q)
    assert (batch.xdp_pass, batch.xdp_drop, batch.xdp_redirect) == (1, 4, 1)
    exceptions = [r.act for r in q.trace if isinstance(r, XdpException)]
    assert exceptions == [ABORTED, TX, 99][:traced]


def test_a_failed_redirect_is_a_drop() -> None:
    q = queue(192, prog=PROG)
    q.run, q.redirect = (lambda _: REDIRECT), (lambda frame: errno.EINVAL if frame.number else 0)
    poll(q, 3)
    q.cpu_map_kthread_run()
    (batch,) = batches(q)
    assert (batch.xdp_drop, batch.xdp_redirect) == (2, 1)
    assert q.trace.count(RedirectErr(-errno.EINVAL)) == 2


@pytest.mark.parametrize(("kernel", "skbs_first"), [(V61, True), (V612, True), (V73, False)])
def test_order_in_a_mixed_batch(kernel: tuple[int, ...], skbs_first: bool) -> None:
    q = queue(192, kernel)
    poll(q, 2)
    q.cpu_map_generic_redirect(Frame(2, skb=True))
    q.cpu_map_kthread_run()
    assert [frame.skb for frame in q.delivered] == sorted([False, False, True], reverse=skbs_first)


@pytest.mark.parametrize(("kernel", "delivered"), [(V61, 0), (V73, 5)])
def test_skbs_that_cannot_be_allocated(kernel: tuple[int, ...], delivered: int) -> None:
    q = queue(192, kernel)
    q.spare_skbs = 5
    poll(q, 8)
    q.cpu_map_kthread_run()
    (batch,) = batches(q)
    assert (batch.processed, batch.drops) == (8, 8 - delivered)
    assert len(q.delivered) == delivered


@pytest.mark.parametrize(
    ("frames", "flushes"), [(5, [5]), (64, [64]), (65, [64, 1]), (192, [64, 64, 64])]
)
def test_gro_is_flushed_every_64_or_when_idle(frames: int, flushes: list[int]) -> None:
    q = queue(256)
    poll(q, frames)
    q.cpu_map_kthread_run()
    assert q.flushes == flushes


def test_an_entry_that_goes_delivers_what_it_has() -> None:
    q = queue(192)
    poll(q, 20)
    q.bq_enqueue(Frame(20), 1)
    q.cpu_map_entry_free()
    assert len(q.delivered) == 21
    assert batches(q)[-1].processed == 0


@pytest.mark.parametrize("frames", [1, 8, 9, 256])
def test_a_poll_tells_what_is_traced_of_it_alone(frames: int) -> None:
    q = queue(64)
    q.poll(5)
    bulks = q.poll(frames)
    assert bulks == enqueues(q)[1:]
    assert [sum(column) for column in zip(*bulks, strict=True)] == [frames, max(frames - 59, 0)]
    assert q.awake


@pytest.mark.parametrize(("kernel", "early"), [(V510, False), (V61, False), (V612, True)])
def test_a_batch_is_traced_before_or_after_the_stack_gets_it(
    kernel: tuple[int, ...], early: bool
) -> None:
    q = queue(192, kernel)
    poll(q, 9)
    q.cpu_map_kthread_run()
    got = [type(r) for r in q.trace if isinstance(r, Kthread | Received)]
    both = [[Kthread] + [Received] * n if early else [Received] * n + [Kthread] for n in (8, 1)]
    assert got == both[0] + both[1]


@pytest.mark.parametrize(("kernel", "drops"), [(V510, 9), (V61, 0), (V73, 0)])
def test_only_without_lists_the_kthread_hears_of_the_stack_s_drops(
    kernel: tuple[int, ...], drops: int
) -> None:
    q = queue(192, kernel)
    q.stack_drops = True
    poll(q, 9)
    q.cpu_map_kthread_run()
    assert sum(batch.drops for batch in batches(q)) == drops
