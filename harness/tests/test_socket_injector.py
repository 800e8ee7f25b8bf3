from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from harness.errors import TrafficError
from harness.traffic.socket import BURST, SocketInjector

if TYPE_CHECKING:
    from collections.abc import Iterator

LATE_S = 30.0
"""So late that only a bug reaches it."""


class Wire:
    """The two ends of a NIC's socket pair; what arrives at QEMU's is read on demand."""

    def __init__(self) -> None:
        self.ours, self.qemus = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.qemus.settimeout(LATE_S)

    def read(self, count: int) -> list[bytes]:
        return [self.qemus.recv(65536) for _ in range(count)]

    def close(self) -> None:
        self.ours.close()
        self.qemus.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


def frames(count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") * 16 for number in range(count)]


def test_frames_arrive_whole_and_in_order(wire: Wire) -> None:
    sent = [bytes([size % 251]) * size for size in (60, 64, 1514, 60)]
    assert SocketInjector(wire.ours, stall_s=LATE_S).send(sent) == 4
    assert wire.read(4) == sent


def test_nothing_to_send(wire: Wire) -> None:
    assert SocketInjector(wire.ours, stall_s=LATE_S).send([]) == 0


def test_none_is_lost_when_the_guest_is_slow(wire: Wire) -> None:
    """Far more than any buffer holds: sending blocks until the reader has made room."""
    many = frames(40_000)
    got: list[bytes] = []

    def read() -> None:
        got.extend(wire.read(len(many)))

    reader = threading.Thread(target=read)
    injector = SocketInjector(wire.ours, stall_s=LATE_S)
    first = threading.Event()
    sender = threading.Thread(target=lambda: injector.send(many, progress=lambda _: first.set()))
    sender.start()
    assert first.wait(LATE_S)
    reader.start()
    sender.join(LATE_S)
    reader.join(LATE_S)
    assert got == many


def test_more_waits_on_the_way_than_the_queue_limit_of_datagram_sockets(wire: Wire) -> None:
    """net.unix.max_dgram_qlen (10 or 512) does not bound what is under way between two peers."""
    assert SocketInjector(wire.ours, stall_s=LATE_S).send(frames(2000)) == 2000
    assert wire.read(2000) == frames(2000)


def test_a_guest_that_takes_nothing_is_an_error_with_the_count(wire: Wire) -> None:
    injector = SocketInjector(wire.ours, stall_s=0.05)
    with pytest.raises(TrafficError, match="and then none for 0 s") as caught:
        injector.send(frames(200_000))
    took = int(caught.value.message.split()[3])
    assert caught.value.message.startswith(f"the guest took {took} of 200000 frames")
    assert wire.read(took) == frames(took)
    wire.qemus.setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.read(1)


def test_after_a_stall_it_goes_on(wire: Wire) -> None:
    injector = SocketInjector(wire.ours, stall_s=0.05)
    with pytest.raises(TrafficError) as caught:
        injector.send(frames(200_000))
    wire.read(int(caught.value.message.split()[3]))
    assert injector.send(frames(3)) == 3
    assert wire.read(3) == frames(3)


@pytest.mark.parametrize("before", [0, 5])
def test_a_qemu_that_has_gone_is_an_error_with_the_count(wire: Wire, before: int) -> None:
    injector = SocketInjector(wire.ours, stall_s=LATE_S)
    injector.send(frames(before))
    wire.qemus.close()
    with pytest.raises(TrafficError, match="QEMU went away after 0 of 9 frames"):
        injector.send(frames(9))


def test_a_qemu_that_goes_while_it_is_waited_for(wire: Wire) -> None:
    injector = SocketInjector(wire.ours, stall_s=LATE_S)
    under_way = threading.Event()

    def go() -> None:
        under_way.wait(LATE_S)
        wire.qemus.close()

    closer = threading.Thread(target=go)
    closer.start()
    with pytest.raises(TrafficError, match=r"QEMU went away after \d+ of 200000 frames"):
        injector.send(frames(200_000), progress=lambda _: under_way.set())
    closer.join()


def test_progress_is_told_now_and_then(wire: Wire) -> None:
    told: list[int] = []
    SocketInjector(wire.ours, stall_s=LATE_S).send(frames(2 * BURST + 1), progress=told.append)
    assert told == [BURST, 2 * BURST]


def test_a_rate_is_kept_on_the_average(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    monkeypatch.setattr("harness.traffic.socket.time.monotonic", lambda: now)
    monkeypatch.setattr("harness.traffic.socket.time.sleep", sleep)
    SocketInjector(wire.ours, stall_s=LATE_S).send(frames(50), rate=1000)
    assert sum(slept) == pytest.approx(0.05)


@pytest.mark.parametrize("stall_s", [0.25, 1.0, 2.5, 61.7])
def test_the_stall_is_the_sockets_time_out(wire: Wire, stall_s: float) -> None:
    SocketInjector(wire.ours, stall_s=stall_s)
    raw = wire.ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
    seconds, micro = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")
    # the kernel keeps it in its own ticks
    assert seconds + micro / 1e6 == pytest.approx(stall_s, abs=0.011)
