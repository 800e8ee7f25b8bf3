"""What a frame is made of survives its way through the map.

Payloads are compared to the byte at the end of every case whose frames reach a socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.agent.sink import bind_udp, udp_counters, unread_bytes
from harness.entries import Looker
from harness.model.gates import SEVERAL_BUFFERS, STACK_KNOWS_CPUMAP_GENERIC
from harness.steering.run import DISCARD_PORT
from harness.traffic.frames import CHECKSUMS

if TYPE_CHECKING:
    from harness.casework import Casework

SHORTEST = 50
"""Headers and tag: the virtual wire pads nothing."""
ONE_BUFFER = 3508
"""The longest frame that virtio-net has room for in a page, beside header, headroom and tailroom.

It takes MTUs beyond; what is longer it drops (xdp_linearize_page), or breaks XDP's rules (5.10:
"Driver BUG: missing reserved tailroom").
"""
PAGE = 4096
"""What a frame of virtio-net's lies in as long as there is an XDP program, or a live frame."""
TWO_BUFFERS = ONE_BUFFER + 1
JUMBO = 9014
UDP_CHECKSUM = 34, 6
"""Where the datagram starts in the frame, and its checksum in there."""
LENGTHS = [SHORTEST, 59, 60, 61, 127, 128, 129, 512, 1500, 1514]

whole = pytest.mark.proves("cpu_map_kthread_run", "a frame becomes an skb of the same bytes")
parts = pytest.mark.proves(
    "cpu_map_kthread_run",
    "frames in several buffers become skbs of the same bytes",
    since=SEVERAL_BUFFERS,
)


@whole
@pytest.mark.proves("cpu_map_build_skb", "a frame becomes an skb of the same bytes")
@pytest.mark.parametrize("size", LENGTHS)
def test_every_size_arrives_whole(lab: Casework, size: int) -> None:
    run = lab.steer(lab.cpus)
    lab.send(frames=40, size=size)
    assert lab.close().socket == 40
    assert {hop.length for hop in run.arrivals()} == {size}


@pytest.mark.proves("cpu_map_kthread_run", "an skb accounts for all of its frame's buffer")
@pytest.mark.proves("cpu_map_build_skb", "an skb accounts for all of its frame's buffer")
@pytest.mark.parametrize("live", [False, True], ids=["wire", "live"])
def test_an_skb_accounts_for_all_of_its_frames_buffer(lab: Casework, live: bool) -> None:
    run = lab.steer(2, socket=False, stack=True)
    bind_udp(lab.guest.calls, DISCARD_PORT)
    (lab.live if live else lab.send)(10, size=SHORTEST)
    assert run.wait_rest()
    lab.wait_for(lambda: unread_bytes(lab.guest.calls, DISCARD_PORT) >= 10 * PAGE)
    assert 10 * PAGE <= unread_bytes(lab.guest.calls, DISCARD_PORT) < 11 * PAGE


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(
            "native",
            marks=pytest.mark.proves(
                "cpu_map_kthread_run", "a frame becomes an skb without mark, priority or hash"
            ),
        ),
        pytest.param(
            "generic",
            marks=pytest.mark.proves(
                "cpu_map_generic_redirect", "an skb is given no mark, priority or hash"
            ),
        ),
    ],
)
def test_an_skb_is_given_no_traits(lab: Casework, mode: str) -> None:
    run = lab.steer(lab.cpus, mode=mode)
    lab.send(frames=200)
    assert lab.close().delivered == 200
    assert run.traits() == {"mark": 0, "priority": 0, "hash": 0}


@whole
@pytest.mark.machine(mrg_rxbuf=False)
@pytest.mark.parametrize("size", LENGTHS)
def test_every_size_arrives_whole_from_buffers_of_one_frame(lab: Casework, size: int) -> None:
    lab.steer(lab.cpus)
    lab.send(frames=400, size=size)
    assert lab.close().socket == 400


@whole
@pytest.mark.parametrize("size", [1515, 2048, 3000, ONE_BUFFER])
def test_jumbo_frames_arrive_whole(lab: Casework, size: int) -> None:
    lab.guest.set_mtu(0, ONE_BUFFER - 14)
    lab.steer(lab.cpus)
    lab.send(frames=400, size=size)
    assert lab.close().socket == 400


@parts
@pytest.mark.parametrize("size", [SHORTEST, ONE_BUFFER, TWO_BUFFERS, JUMBO, 16384])
def test_frames_in_several_buffers_arrive_whole(lab: Casework, size: int) -> None:
    lab.guest.set_mtu(0, 16384)
    run = lab.steer(lab.cpus, frags=True)
    lab.send(frames=400, size=size)
    assert lab.close().socket == 400
    assert {hop.length for hop in run.arrivals()} == {size}


@parts
def test_frames_in_several_buffers_are_dropped_whole(lab: Casework) -> None:
    lab.guest.set_mtu(0, JUMBO)
    run = lab.steer(3, entries={3: 8}, frags=True)
    with lab.hold(3):
        lab.send(frames=100, size=JUMBO)
        run.wait_offered()
    books = lab.close()
    assert books.queue_drops == 92
    assert books.socket == 8


@pytest.mark.proves(
    "cpu_map_bpf_prog_run_xdp",
    "a program sees all buffers of a frame, and may cut its tail",
    since=SEVERAL_BUFFERS,
)
@pytest.mark.parametrize("tail", [0, 1, 2000, 6000])
def test_an_entrys_program_sees_all_buffers(lab: Casework, tail: int) -> None:
    lab.guest.set_mtu(0, JUMBO)
    run = lab.steer(3, entries={}, frags=True, socket=False)
    looker = Looker(lab.guest, frames=100, tail=tail, frags=True)
    run.set(3, 192, looker.program)
    run.resizes()
    lab.send(frames=100, size=JUMBO)
    assert lab.close().delivered == 100
    assert {(look.count, look.length) for look in looker.looks()} == {(1, JUMBO)}
    assert {hop.length for hop in run.arrivals()} == {JUMBO - tail}


@pytest.mark.proves("cpu_map_generic_redirect", "jumbo frames are redirected whole")
@pytest.mark.parametrize("size", [1515, TWO_BUFFERS, JUMBO])
def test_jumbo_skbs_arrive_whole(lab: Casework, size: int) -> None:
    lab.guest.set_mtu(0, JUMBO)
    lab.steer(lab.cpus, mode="generic")
    lab.send(frames=400, size=size)
    assert lab.close().socket == 400


@whole
@pytest.mark.parametrize("size", [60, 64, 1518])
def test_frames_of_a_priority_arrive_whole(lab: Casework, size: int) -> None:
    lab.steer(lab.cpus)
    lab.send(frames=40, vlan=0, size=size)  # a tag, but no VLAN: the stack takes it as its own
    assert lab.close().socket == 40


@pytest.mark.proves("cpu_map_kthread_run", "a frame of any protocol becomes an skb")
@pytest.mark.parametrize("vlan", [1, 100, 4094])
def test_vlan_frames_are_redirected(lab: Casework, vlan: int) -> None:
    run = lab.steer(lab.cpus, socket=False)
    lab.send(frames=40, vlan=vlan, size=200)
    assert lab.close().delivered == 40
    assert {hop.length for hop in run.arrivals()} == {200}


@pytest.mark.proves("cpu_map_kthread_run", "a frame of any protocol becomes an skb")
def test_tcp_frames_are_redirected(lab: Casework) -> None:
    lab.steer(lab.cpus, socket=False)
    lab.send(frames=40, protocol="tcp", size=80)
    assert lab.close().delivered == 40


COUNTERS = ("NoPorts", "InCsumErrors", "InErrors")


class Udp:
    """What the guest's UDP has done with datagrams since this was made."""

    def __init__(self, lab: Casework) -> None:
        self._lab = lab
        self._before = udp_counters(lab.guest.calls)

    def counted(self) -> tuple[int, ...]:
        """Return how far `COUNTERS` went."""
        now = udp_counters(self._lab.guest.calls)
        return tuple(now[name] - self._before[name] for name in COUNTERS)

    def wait(self, *expected: int) -> tuple[int, ...]:
        """Wait until so many are counted, and return how many are."""
        self._lab.wait_for(lambda: self.counted() == expected)
        return self.counted()


@pytest.mark.proves("cpu_map_kthread_run", "the stack checks the checksum of what it delivers")
@pytest.mark.parametrize(
    "mode",
    [
        "native",
        pytest.param(
            "generic",
            marks=pytest.mark.proves("cpu_map_generic_redirect", "an skb's checksum is checked"),
        ),
        "live",
    ],
)
def test_the_stack_checks_the_checksum(lab: Casework, mode: str) -> None:
    """No frame of a cpumap's claims that somebody else has done so (CHECKSUM_NONE)."""
    lab.steer(lab.cpus, mode="generic" if mode == "generic" else "native", socket=False, stack=True)
    udp = Udp(lab)
    inject = lab.live if mode == "live" else lab.send
    for checksum in CHECKSUMS:
        inject(40, checksum=checksum)
    assert lab.close().delivered == 120
    # right or none: to a port that nobody listens to
    assert udp.wait(80, 40, 40) == (80, 40, 40)


@pytest.mark.parametrize(
    ("mode", "wrong"),
    [
        pytest.param(
            "native",
            40,
            marks=pytest.mark.proves(
                "cpu_map_kthread_run", "a frame no longer tells that its checksum is to be made"
            ),
        ),
        pytest.param(
            "generic",
            0,
            marks=pytest.mark.proves(
                "cpu_map_generic_redirect",
                "an skb still tells that its checksum is to be made",
                since=STACK_KNOWS_CPUMAP_GENERIC,
            ),
        ),
    ],
)
def test_a_checksum_that_is_yet_to_be_made(lab: Casework, mode: str, wrong: int) -> None:
    lab.guest.must_own("NIC that a veth pair may take the place of")
    lab.guest.put_veth(0)
    lab.guest.veths[0].leave_checksum(*UDP_CHECKSUM)
    lab.steer(lab.cpus, mode=mode, socket=False, stack=True)
    udp = Udp(lab)
    lab.send(40, checksum="wrong")
    assert lab.close().delivered == 40
    assert udp.wait(40 - wrong, wrong, wrong) == (40 - wrong, wrong, wrong)
