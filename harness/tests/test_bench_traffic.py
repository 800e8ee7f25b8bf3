"""The bench: how many frames a second are proven to have arrived."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Self

import pytest

import harness.bench.cli
import harness.bench.load
import harness.bench.stress
import harness.bench.traffic
import harness.bench.virtme
from harness.bench.measure import middle
from harness.bench.traffic import Injection, send_only, send_to_guest
from harness.errors import TrafficError
from harness.tests.benches import RECIPE, SNAPSHOT


def injection(rate: float) -> Injection:
    return Injection(1000, 1.0, 1000 / rate, None)


def test_the_rate_is_up_to_the_proof_of_the_last_arrival() -> None:
    assert Injection(1000, 0.01, 0.5, None).rate == 2000


def test_the_middle_run_has_the_median_rate() -> None:
    assert middle([injection(r) for r in (30, 10, 20)]).rate == pytest.approx(20)
    assert middle([injection(r) for r in (40, 10, 20, 30)]).rate == pytest.approx(20)


def test_the_sender_alone_sends_all() -> None:
    alone = send_only([bytes(64)] * 1000)
    assert alone.frames == 1000
    assert 0 < alone.send_s == alone.rest_s


class FakeRun:
    """A clone and a steering on it whose books the test writes."""

    def __init__(self, **books: Any) -> None:
        self.process = SimpleNamespace(pid=1)
        self.books = SimpleNamespace(
            **{
                "balanced": True,
                "dropped": 0,
                "socket": 0,
                "queue_drops": 0,
                "reasons": (),
                **books,
            }
        )
        self.plans: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def flow(self, frames: int) -> int:
        return frames

    def inject(self, frames: object) -> None: ...

    def wait_rest(self) -> None: ...

    def close(self) -> SimpleNamespace:
        return self.books


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    run = FakeRun()
    room = harness.bench.traffic
    monkeypatch.setattr(room, "clone", lambda *_: run)
    monkeypatch.setattr(room, "vcpu_threads", lambda _: ())
    monkeypatch.setattr(room, "Guest", SimpleNamespace(of=lambda *_: None))
    monkeypatch.setattr(room, "build_frames", list)
    monkeypatch.setattr(room, "Stopwatch", lambda *_: SimpleNamespace(read=lambda: None))

    def steering(_: object, plan: object) -> FakeRun:
        run.plans.append(plan)
        return run

    monkeypatch.setattr(room, "Steering", steering)
    return run


def test_frames_count_when_the_books_balance_and_all_arrived(fake_run: FakeRun) -> None:
    fake_run.books.socket = 1000
    assert send_to_guest(RECIPE, SNAPSHOT, 1000).frames == 1000
    (plan,) = fake_run.plans
    assert (plan.targets, set(plan.entries), plan.socket) == ((0, 1, 2, 3), {0, 1, 2, 3}, True)
    fake_run.books.dropped = 1000
    send_to_guest(RECIPE, SNAPSHOT, 1000, drop=True)
    assert (fake_run.plans[1].entries, fake_run.plans[1].flags) == ({}, 1)


@pytest.mark.parametrize(
    ("books", "said"),
    [
        ({"socket": 1000, "balanced": False, "reasons": ("3 frames missing",)}, "3 frames missing"),
        ({"socket": 990, "queue_drops": 10}, "queues were full for 10"),
    ],
)
def test_a_rate_without_proof_is_none(fake_run: FakeRun, books: dict[str, Any], said: str) -> None:
    vars(fake_run.books).update(books)
    with pytest.raises(TrafficError, match=said):
        send_to_guest(RECIPE, SNAPSHOT, 1000)
