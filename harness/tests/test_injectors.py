"""What every injector promises: nothing is lost, counts are proven, errors say why."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from harness.errors import ToolMissing, TrafficError
from harness.machine.nic import hang_up, open_wire
from harness.machine.tap import Tap, make_tap
from harness.machine.topology import Nic
from harness.tests.fakes import LATE_S
from harness.traffic.frames import Flow, build_frames
from harness.traffic.injectors import make_injector
from harness.traffic.wire import BURST, Injector, paced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAC = "52:54:00:63:70:00"
WIRES = {"socket": Nic("-"), "tap": Nic("-", taps=1), "tap of four queues": Nic("-", taps=4)}


class Wire:
    """Both ends of a NIC's wire: the harness's, and QEMU's, which is the test's here."""

    def __init__(self, nic: Nic) -> None:
        self.end, self.queues = open_wire(nic)

    def inject(self, *, stall_s: float = LATE_S) -> Injector:
        return make_injector(self.end, stall_s=stall_s)

    def read(self, count: int) -> list[bytes]:
        got: list[bytes] = []
        while len(got) < count:
            ready = select.select(self.queues, [], [], LATE_S)[0]
            assert ready, f"{len(got)} of {count} frames came"
            got += [os.read(queue, 65536) for queue in ready]
        return got

    def hang_up(self) -> None:
        for queue in self.queues:
            os.close(queue)
        self.queues = ()

    def close(self) -> None:
        self.end.close()
        self.hang_up()


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    wire = Wire(WIRES[request.param])
    yield wire
    wire.close()


def frames(count: int, *, size: int = 64) -> list[bytes]:
    """Frames without a flow, which a tap keeps in one queue."""
    header = bytes.fromhex("525400637000 5254006370f0 88b5")
    return [(header + number.to_bytes(4, "big")).ljust(size, b"x") for number in range(count)]


def while_reading(wire: Wire, count: int, do: Callable[[], object]) -> list[bytes]:
    """Do something while QEMU's end is read, and return what came."""
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.extend(wire.read(count)))
    reader.start()
    do()
    reader.join(LATE_S)
    return got


def test_frames_arrive_whole_and_in_order(wire: Wire) -> None:
    sent = [frame for size in (60, 64, 1514, 9014, 60) for frame in frames(1, size=size)]
    assert while_reading(wire, 5, lambda: wire.inject().send(sent)) == sent


def test_nothing_to_send(wire: Wire) -> None:
    assert wire.inject().send([]) == 0


def test_none_is_lost_when_the_guest_is_slow(wire: Wire) -> None:
    """Far more than any buffer holds: sending blocks until the reader has made room."""
    many = frames(20_000)
    counts: list[int] = []
    sender = threading.Thread(target=lambda: counts.append(wire.inject().send(many)))
    sender.start()
    sender.join(0.05)
    assert sender.is_alive()
    assert wire.read(len(many)) == many
    sender.join(LATE_S)
    assert counts == [len(many)]


def test_a_guest_that_takes_nothing_is_an_error_with_the_count(wire: Wire) -> None:
    with pytest.raises(TrafficError, match="and then none for 0 s") as caught:
        wire.inject(stall_s=0.05).send(frames(200_000))
    took = int(caught.value.message.split()[3])
    assert caught.value.message.startswith(f"the guest took {took} of 200000 frames")
    assert wire.read(took) == frames(took)


def test_after_a_stall_it_goes_on(wire: Wire) -> None:
    injector = wire.inject(stall_s=0.05)
    with pytest.raises(TrafficError):
        injector.send(frames(200_000))
    while select.select(wire.queues, [], [], 0)[0]:
        wire.read(1)
    assert while_reading(wire, 3, lambda: injector.send(frames(3))) == frames(3)


def test_a_qemu_that_has_gone_is_an_error_with_the_count(wire: Wire) -> None:
    injector = wire.inject()
    while_reading(wire, 5, lambda: injector.send(frames(5)))
    wire.hang_up()
    with pytest.raises(TrafficError, match="the guest went away after 0 of 9 frames"):
        injector.send(frames(9))


def test_a_qemu_that_goes_while_it_is_waited_for(wire: Wire) -> None:
    sender_waits = threading.Timer(0.05, wire.hang_up)
    sender_waits.start()
    with pytest.raises(TrafficError, match=r"the guest went away after \d+ of 200000 frames"):
        wire.inject().send(frames(200_000))
    sender_waits.join()


def test_a_guest_that_ends_while_it_is_waited_for(wire: Wire) -> None:
    """Its QEMU stays, and takes nothing more."""
    ends = threading.Timer(0.05, hang_up, [wire.end])
    ends.start()
    with pytest.raises(TrafficError, match=r"the guest went away after \d+ of 200000 frames"):
        wire.inject().send(frames(200_000))
    ends.join()
    assert wire.inject().receive(1, deadline_s=0.01) == []


def test_progress_is_told_now_and_then(wire: Wire) -> None:
    told: list[int] = []
    count = 2 * BURST + 1
    while_reading(wire, count, lambda: wire.inject().send(frames(count), progress=told.append))
    assert told == [BURST, 2 * BURST]


def test_what_the_guest_sends(wire: Wire) -> None:
    for frame in frames(3):
        os.write(wire.queues[0], frame)
    assert wire.inject().receive(3, deadline_s=LATE_S) == frames(3)
    assert wire.inject().receive(1, deadline_s=0.01) == []


def test_a_rate_is_kept_on_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    monkeypatch.setattr("harness.traffic.wire.time.monotonic", lambda: now)
    monkeypatch.setattr("harness.traffic.wire.time.sleep", sleep)
    assert list(paced(frames(50), 1000, None)) == frames(50)
    assert sum(slept) == pytest.approx(0.05)


def test_more_waits_on_the_way_than_the_queue_limit_of_datagram_sockets() -> None:
    """net.unix.max_dgram_qlen (10 or 512) does not bound what is under way between two peers."""
    with contextlib.closing(Wire(WIRES["socket"])) as wire:
        assert wire.inject().send(frames(2000)) == 2000
        assert wire.read(2000) == frames(2000)


@pytest.mark.parametrize("stall_s", [0.25, 1.0, 2.5, 61.7])
def test_the_stall_is_the_sockets_time_out(stall_s: float) -> None:
    with contextlib.closing(Wire(WIRES["socket"])) as wire:
        assert isinstance(wire.end, socket.socket)
        wire.inject(stall_s=stall_s)
        raw = wire.end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
    seconds, micro = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")
    # the kernel keeps it in its own ticks
    assert seconds + micro / 1e6 == pytest.approx(stall_s, abs=0.011)


def test_a_tap_spreads_flows_over_its_queues() -> None:
    flows = [Flow(4, "10.0.0.1", "10.0.0.2", MAC, source_port=port) for port in range(64)]
    sent = build_frames(flows)
    with contextlib.closing(Wire(WIRES["tap of four queues"])) as wire:
        sender = threading.Thread(target=wire.inject().send, args=(sent.data,))
        sender.start()
        came: dict[int, list[bytes]] = {queue: [] for queue in wire.queues}
        while sum(map(len, came.values())) < len(sent):
            for queue in select.select(wire.queues, [], [], LATE_S)[0]:
                came[queue].append(os.read(queue, 65536))
        sender.join(LATE_S)
    assert all(came.values())
    of = dict(zip(sent.data, sent.flows, strict=True))
    queues = [
        {queue for queue, got in came.items() if flow in map(of.get, got)} for flow in range(64)
    ]
    assert {len(some) for some in queues} == {1}


def test_a_tap_frame_is_sent_when_it_has_been_read() -> None:
    with contextlib.closing(Wire(WIRES["tap"])) as wire:
        counts: list[int] = []
        sender = threading.Thread(target=lambda: counts.append(wire.inject().send(frames(5))))
        sender.start()
        assert wire.read(4) == frames(4)
        sender.join(0.05)
        assert sender.is_alive()
        wire.read(1)
        sender.join(LATE_S)
    assert counts == [5]


def test_a_full_tap_is_an_error() -> None:
    with contextlib.closing(Wire(WIRES["tap"])) as wire:
        assert isinstance(wire.end, Tap)
        with contextlib.suppress(OSError):  # past the injector, which bounds it
            while wire.end.packet.send(frames(1)[0]):
                pass
        with pytest.raises(TrafficError, match=r"after 0 of 9 frames: .* No buffer space"):
            wire.inject().send(frames(9))


@pytest.mark.parametrize(
    ("unshare", "what"),
    [
        ("exec false", "no tap could be made"),
        ("echo 'unshare failed: Operation not permitted' >&2; exit 1", "Operation not permitted"),
        (None, "unshare is not here"),
    ],
)
def test_a_machine_without_namespaces(
    unshare: str | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if unshare:
        (tmp_path / "unshare").write_text(f"#!/bin/sh\n{unshare}\n")
        (tmp_path / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if unshare else str(tmp_path))
    with pytest.raises(ToolMissing, match=what) as caught:
        make_tap(4)
    assert caught.value.remedy


def test_a_machine_that_has_no_namespace_left() -> None:
    """For real: in a user namespace that may have none inside (user_namespaces(7))."""
    none = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    room = ["unshare", "--user", "--map-root-user", "sh", "-c", none, "-"]
    script = "import harness.machine.tap as room, harness.errors\n"
    script += "try: room.make_tap(2)\nexcept harness.errors.ToolMissing as error: print(error)"
    ran = subprocess.run(
        [*room, sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "no tap could be made in a network namespace: unshare: " in ran.stdout
    assert "No space left on device" in ran.stdout
    assert "sysctl user.max_user_namespaces above 0" in ran.stdout
