from __future__ import annotations

import pytest

from harness.model.ring import PtrRing


def filled(ring: PtrRing[int]) -> int:
    """Fill a ring and return how many it took."""
    return sum(1 for number in range(ring.size + 1) if ring.produce(number))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 31, 32, 33, 64, 100, 192, 255, 16384])
def test_a_fresh_ring_takes_its_size(size: int) -> None:
    assert filled(PtrRing(size)) == size


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    ("used", "missing"), [(0, 0), (1, 1), (5, 5), (15, 15), (16, 0), (17, 1), (20, 4), (31, 15)]
)
def test_a_used_ring_takes_less(size: int, used: int, missing: int) -> None:
    ring: PtrRing[int] = PtrRing(size)
    for number in range(used):
        assert ring.produce(number)
        assert ring.consume() == number
    assert ring.empty()
    assert ring.capacity == size - missing
    assert filled(ring) == size - missing


@pytest.mark.parametrize("size", [1, 8, 31])
def test_a_small_ring_hands_back_at_once(size: int) -> None:
    ring: PtrRing[int] = PtrRing(size)
    for number in range(3 * size):
        assert ring.produce(number)
        assert ring.consume() == number
        assert ring.capacity == size


@pytest.mark.parametrize("size", [32, 33, 64, 100, 192])
def test_capacity_is_that_of_the_formula(size: int) -> None:
    for used in range(3 * size):
        ring: PtrRing[int] = PtrRing(size)
        for number in range(used):
            ring.produce(number)
            ring.consume()
        assert ring.capacity == size - used % size % 16


def test_the_end_of_the_ring_hands_back_what_is_left() -> None:
    ring: PtrRing[int] = PtrRing(40)  # 16, 16, 8
    filled(ring)
    ring.consume_batched(39)
    assert ring.capacity == 32
    ring.consume()
    assert ring.capacity == 40


def test_order_is_kept() -> None:
    ring: PtrRing[int] = PtrRing(33)
    out: list[int] = []
    for number in range(200):
        assert ring.produce(number)
        if number % 7 == 0:
            out += ring.consume_batched(8)
    out += ring.consume_batched(100)
    assert out == list(range(200))
    assert ring.consume() is None


def test_the_cache_line_sets_the_batch() -> None:
    assert PtrRing(1024, cache_line=128).batch == 32
    assert PtrRing(32).batch == 16
    assert PtrRing(31).batch == 1
    assert PtrRing(0).capacity == 0
