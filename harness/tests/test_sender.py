"""Frames go at their time and stop where they must, from a thread or between other calls."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from harness.scenario.sender import ThreadSender, TurnSender
from harness.tests.fakes import LATE_S
from harness.traffic.frames import Flow, Frames, Reel
from harness.traffic.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

MAC = "52:54:00:63:70:00"
EVERY = pytest.mark.parametrize("kind", [ThreadSender, TurnSender])


def reel(count: int) -> Reel:
    return Reel([Flow(count, "10.0.0.1", "10.0.0.2", MAC)], [0] * count)


def until(sender: ThreadSender | TurnSender, met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LATE_S
    while not met():
        sender.check()
        sender.go_on()
        assert time.monotonic() < deadline


def _has_sent(sender: ThreadSender | TurnSender, count: int) -> bool:
    return sender.sent == count


@pytest.mark.parametrize("stops", [[], [3], [10], [0, 3, 3, 10, 10]])
def test_the_thread_ends_with_its_block(stops: list[int]) -> None:
    before = threading.active_count()
    with ThreadSender(lambda _: None, reel(10), Turns((0,) * 10), stops) as sender:
        for _ in stops:
            sender.let_on()
    assert sender.sent in (0, *stops, 10)
    with ThreadSender(lambda _: None, reel(10), Turns((0,) * 10), stops):
        pass  # an error elsewhere: nobody lets it on
    assert threading.active_count() == before


def test_an_interrupt_does_not_wait_for_the_next_frame() -> None:
    """An hour lies between two frames of the capture."""

    def interrupted() -> None:
        with ThreadSender(lambda _: None, reel(2), Turns((0, 0), (0.0, 3600.0)), ()) as sender:
            until(sender, lambda: sender.sent == 1)
            raise KeyboardInterrupt

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            interrupted()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LATE_S)
    assert not thread.is_alive()


@EVERY
def test_it_waits_at_each_stop_to_be_let_on(kind: Any) -> None:
    sent: list[Frames] = []
    stops = [0, 3, 3, 10]
    with kind(sent.append, reel(10), Turns((0,) * 10), stops) as sender:
        for stop in stops:
            until(sender, partial(_has_sent, sender, stop))
            for _ in range(3):
                sender.go_on()
            assert sender.sent == stop
            sender.let_on()
        until(sender, lambda: sender.done)
    data = [frame for part in sent for frame in part.data]
    assert data == list(reel(10).take(10).data)


@EVERY
def test_no_frame_goes_before_its_time_and_a_late_one_goes_at_once(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    went: list[tuple[float, int]] = []

    def inject(frames: Frames) -> None:
        nonlocal now
        went.append((now - 100, len(frames)))
        now += 0.25  # the guest is slow

    def passes(seconds: float, *_: object) -> bool:
        nonlocal now
        now += seconds
        return False

    monkeypatch.setattr("harness.scenario.sender.time.monotonic", lambda: now)
    monkeypatch.setattr("harness.scenario.sender.time.sleep", passes)
    due_s = (0.0, 0.125, 0.125, 1.0, 1.125, 2.0)
    sender = kind(inject, reel(6), Turns((0,) * 6, due_s), ())
    if kind is ThreadSender:
        monkeypatch.setattr(threading.Event, "wait", lambda _, seconds: passes(seconds))
        sender._start, sender._ended = now, threading.Event()
        sender._send()
    else:
        with sender:
            while not sender.done:
                sender.go_on()
    assert [n for _, n in went] == [1, 2, 1, 1, 1]
    assert [at for at, _ in went] == pytest.approx([0.0, 0.25, 1.0, 1.25, 2.0], abs=0.001)
    assert list(sender.late_s) == pytest.approx([0, 0.125, 0.125, 0, 0.125, 0], abs=0.001)


@EVERY
def test_frames_without_a_time_are_never_late(kind: Any) -> None:
    with kind(lambda _: None, reel(10), Turns((0,) * 10), ()) as sender:
        until(sender, lambda: sender.done)
    assert not sender.late_s
