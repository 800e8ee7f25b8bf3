"""Generic (skb mode) XDP redirects into the map too, since 5.15."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from harness.agent.sink import bind_udp
from harness.agent.syscalls import Buffer
from harness.errors import GuestError
from harness.model.gates import STACK_KNOWS_CPUMAP_GENERIC
from harness.steering.run import DISCARD_PORT
from harness.trace.events import CpumapEnqueue, XdpRedirectErr

if TYPE_CHECKING:
    from harness.casework import Casework

ENOSPC, EINVAL = 28, 22
SIOCGSTAMPNS, CLOCK_REALTIME = 0x8907, 0


@pytest.mark.proves(
    "cpu_map_prog_allowed", "a map with room for programs keeps its redirectors from generic XDP"
)
def test_generic_is_refused_where_it_cannot_redirect(lab: Casework) -> None:
    with pytest.raises(GuestError) as refused:
        lab.steer(2, mode="generic")
    assert refused.value.errno == EINVAL


@pytest.mark.smoke
@pytest.mark.proves("cpu_map_generic_redirect", "an skb is delivered on the CPU of its entry")
def test_generic_delivers_to_every_cpu(lab: Casework) -> None:
    lab.steer(lab.cpus, mode="generic")
    lab.send(frames=50 * len(lab.cpus))
    books = lab.close()
    assert [row.delivered for row in books.per_cpu] == [50] * len(lab.cpus)


@pytest.mark.proves(
    "cpu_map_generic_redirect", "a full ring refuses an skb: ENOSPC, and the drop is traced"
)
@pytest.mark.proves(
    "cpu_map_generic_redirect", "each skb is offered by itself and traced as one event"
)
@pytest.mark.parametrize("beyond", [0, 1, 24])
def test_generic_drops_what_does_not_fit(lab: Casework, beyond: int) -> None:
    run = lab.steer(3, entries={3: 16}, mode="generic")
    with lab.hold(3):
        lab.send(frames=16 + beyond)
        run.wait_offered()
    books = lab.close()
    assert books.queue_drops == beyond
    assert [r.err for r in lab.records(XdpRedirectErr)] == [-ENOSPC] * beyond
    assert {(r.processed, r.drops) for r in lab.records(CpumapEnqueue)} <= {(1, 0), (0, 1)}
    assert books.delivered == 16


def received_at(lab: Casework, fd: int) -> float:
    """Receive a datagram and return when the kernel says that it came in."""
    lab.guest.calls.must("recvfrom", fd, Buffer(2048), 2048, 0, 0, 0)
    stamp = Buffer(16, returned=True)
    lab.guest.calls.must("ioctl", fd, SIOCGSTAMPNS, stamp)
    return to_seconds(stamp)


def now(lab: Casework) -> float:
    """Return the guest's time of day, in seconds."""
    time = Buffer(16, returned=True)
    lab.guest.calls.must("clock_gettime", CLOCK_REALTIME, time)
    return to_seconds(time)


def to_seconds(timespec: Buffer) -> float:
    """Return a struct timespec in seconds."""
    seconds, ns = struct.unpack("<qq", timespec.content)
    return float(seconds) + ns / 1e9


@pytest.mark.proves("cpu_map_generic_redirect", "an skb keeps the time at which it came in")
def test_an_skb_keeps_the_time_at_which_it_came_in(lab: Casework) -> None:
    run = lab.steer(2, mode="generic", socket=False, stack=True)
    fd = bind_udp(lab.guest.calls, DISCARD_PORT)
    stamped = False  # once the socket has been asked for a time, the kernel begins to take it
    while not stamped and run.sent < 1000:
        lab.send(frames=1)
        assert run.wait_rest()
        at = now(lab)
        stamped = received_at(lab, fd) < at
    with lab.hold(2):
        lab.send(frames=1)
        run.wait_offered()
        held = now(lab)
    assert lab.close().delivered == run.sent
    assert received_at(lab, fd) < held


@pytest.mark.proves(
    "cpu_map_kthread_run", "frames and skbs may share a ring", since=STACK_KNOWS_CPUMAP_GENERIC
)
@pytest.mark.machine(nics=2)
def test_frames_and_skbs_share_an_entry(lab: Casework) -> None:
    run = lab.steer(2, entries={2: 512}, nics=(0, 1), mode="mixed")
    run.send([run.flow(100, nic=0), run.flow(100, nic=1)])
    assert lab.close().delivered == 200
