"""A veth pair of this machine's kernel, in a network namespace of its own."""

from __future__ import annotations

import errno
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from harness.agent.netlink import RTM_SETLINK, ask, attribute
from harness.agent.syscalls import Syscalls
from harness.agent.veth import IFF_UP, IFLA_IFNAME, PacketSocket, make_veth, peer_name, set_aside
from harness.errors import GuestError, TrafficError
from harness.tests.agents import Agent
from harness.tests.fakes import LATE_S
from harness.traffic.veth import WINDOW, VethInjector, in_turns

if TYPE_CHECKING:
    from collections.abc import Iterator

MAC = "52:54:00:63:70:00"
NAME = "eth0"


@pytest.fixture
def calls() -> Iterator[Syscalls]:
    with Agent("unshare", "--user", "--map-root-user", "--net") as agent:
        calls = Syscalls(agent.link())
        # or it sends frames of its own: neighbour discovery, MLD
        calls.link.call("write", "/proc/sys/net/ipv6/conf/default/disable_ipv6", b"1")
        make_veth(calls, NAME, mac=MAC)
        yield calls


def frames(count: int, *, size: int = 64) -> list[bytes]:
    header = bytes.fromhex("525400637000 5254006370f0 88b5")
    return [(header + number.to_bytes(4, "big")).ljust(size, b"x") for number in range(count)]


class Far:
    """What comes in by the far end."""

    def __init__(self, calls: Syscalls) -> None:
        self.socket = PacketSocket(calls, NAME)
        self.got: list[bytes] = []

    def taken(self) -> int:
        while frame := self.socket.receive():
            self.got.append(frame)
        return len(self.got)


def test_every_frame_comes_in_by_the_far_end(calls: Syscalls) -> None:
    far = Far(calls)
    injector = VethInjector(calls, PacketSocket(calls, peer_name(NAME)), far.taken, stall_s=LATE_S)
    sent = [frame for size in (60, 64, 1514) for frame in frames(WINDOW + 3, size=size)]
    told: list[int] = []
    assert injector.send(sent, progress=told.append) == len(sent)
    assert far.got == sent
    assert told[-1] == len(sent)
    assert injector.send([]) == 0
    assert injector.send(frames(3), rate=1e6) == 3


def test_pairs_take_turns_of_many_frames() -> None:
    pairs = [bytes([5]) * 6, bytes([3]) * 6]
    sent = [pairs[number % 2] + number.to_bytes(2, "big") for number in range(2 * WINDOW + 10)]
    turns = in_turns(sent)
    changes = sum(one[:6] != other[:6] for one, other in pairwise(turns))
    assert changes == 5  # two turns of each whole window, and of the rest
    for pair in pairs:
        assert [f for f in turns if f[:6] == pair] == [f for f in sent if f[:6] == pair]


def test_what_goes_the_other_way_is_received(calls: Syscalls) -> None:
    near = PacketSocket(calls, peer_name(NAME))
    injector = VethInjector(calls, near, lambda: 0, stall_s=LATE_S)
    PacketSocket(calls, NAME).send(calls, frames(3))
    assert injector.receive(3, deadline_s=LATE_S) == frames(3)
    assert injector.receive(1, deadline_s=0.01) == []


def test_frames_that_do_not_come_in_are_an_error_with_the_count(calls: Syscalls) -> None:
    sender = PacketSocket(calls, peer_name(NAME))
    injector = VethInjector(calls, sender, lambda: 7, stall_s=0.05)
    with pytest.raises(TrafficError, match="the guest took 0 of 200 frames and then none"):
        injector.send(frames(200))


@pytest.mark.parametrize(("size", "name"), [(64, "ENETDOWN"), (1600, "EMSGSIZE")])
def test_what_the_pair_refuses_is_named(calls: Syscalls, size: int, name: str) -> None:
    sender = PacketSocket(calls, peer_name(NAME))
    if name == "ENETDOWN":
        down = struct.pack("<BxHiII", 0, 0, 0, 0, IFF_UP)
        wire = attribute(IFLA_IFNAME, peer_name(NAME).encode() + b"\0")
        assert ask(calls, RTM_SETLINK, down + wire).errno == 0
    injector = VethInjector(calls, sender, lambda: 0, stall_s=LATE_S)
    with pytest.raises(TrafficError, match=rf"the veth pair refused frame 0 \({name}\)"):
        injector.send(frames(1, size=size))


def test_a_name_is_taken_until_it_is_given_free(calls: Syscalls) -> None:
    with pytest.raises(GuestError) as refused:
        make_veth(calls, NAME, mac=MAC)
    assert refused.value.errno == errno.EEXIST
    set_aside(calls, NAME, PacketSocket(calls, NAME).ifindex)
    make_veth(calls, "eth1", mac=MAC)
    with pytest.raises(GuestError, match=r"ioctl \(eth0\) failed in the guest: ENODEV"):
        PacketSocket(calls, NAME)
