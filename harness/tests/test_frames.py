"""What is sent, against scapy's reading of it."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Dot1Q, Ether

from harness.errors import UserError
from harness.traffic.frames import (
    JUMBO_BYTES,
    MAX_BYTES,
    PEER_MAC,
    TAG,
    TAG_MAGIC,
    Flow,
    build_frames,
    build_live,
)

MAC = "52:54:00:63:70:00"


def flow(frames: int = 1, **how: Any) -> Flow:
    return Flow(frames, **{"source": "10.0.0.1", "destination": "10.0.0.2", "mac": MAC, **how})


def tag_of(packet: Any) -> tuple[int, int, int]:
    """Return magic, flow and number in a frame that scapy has read."""
    payload = bytes(packet[TCP].payload if TCP in packet else packet[UDP].payload)
    magic, number, frame = TAG.unpack_from(payload)
    return magic, number, frame


def sums_are_right(data: bytes) -> bool:
    """Tell whether scapy, made to sum anew, comes to the same bytes."""
    packet = Ether(data)
    for layer, field in ((IP, "chksum"), (UDP, "chksum"), (TCP, "chksum")):
        if layer in packet:
            delattr(packet[layer], field)
    return bool(bytes(packet) == data)


SIZES = sorted(
    {*range(50, 80), 127, 128, 129, 590, 1280, 1500, *range(1508, MAX_BYTES + 1), JUMBO_BYTES}
)


@pytest.mark.parametrize("vlan", [None, 0, 1, 42, 4094])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_every_size_is_a_sound_frame(protocol: str, vlan: int | None) -> None:
    least = Flow(0, "10.0.0.1", "10.0.0.2", MAC, protocol, size=MAX_BYTES, vlan=vlan).headers
    for size in (size for size in SIZES if size >= least + TAG.size):
        (data,) = build_frames([flow(protocol=protocol, size=size, vlan=vlan)], first=size).data
        packet = Ether(data)
        assert len(data) == size
        assert (packet.src, packet.dst) == (PEER_MAC, MAC)
        assert (packet[Dot1Q].vlan if Dot1Q in packet else None) == vlan
        assert (packet[IP].src, packet[IP].dst) == ("10.0.0.1", "10.0.0.2")
        assert packet[IP].len == size - (14 if vlan is None else 18)
        assert (packet[IP].payload.sport, packet[IP].payload.dport) == (40000, 9)
        assert tag_of(packet) == (TAG_MAGIC, 0, size)
        assert sums_are_right(data)


NUMBERS = [0, 1, 2, 254, 255, 256, 65535, 65536, 65537, 0x00FFFFFF, 0x12345678, 0xFFFF0000]


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("size", [74, 75, 1514])
def test_every_number_is_summed_right(protocol: str, size: int) -> None:
    for number in (*NUMBERS, 0xFFFFFFFE):
        (data,) = build_frames([flow(protocol=protocol, size=size)], first=number).data
        assert tag_of(Ether(data))[2] == number
        assert sums_are_right(data)


def test_a_udp_sum_of_zero_is_sent_as_its_other_self() -> None:
    """Zero means "no checksum" in UDP: such a datagram would not be checked."""
    found = 0
    for data in build_frames([flow(70_000)]).data:
        found += data[40:42] == b"\xff\xff"
        assert data[40:42] != b"\0\0"
    assert found  # there is one among all 65536 sums


def test_the_sums_of_a_long_run_are_right() -> None:
    frames = build_frames([flow(3000), flow(3000, protocol="tcp", source_port=1)])
    assert all(sums_are_right(data) for data in frames.data[::97])


def test_frames_are_numbered_through_the_run() -> None:
    frames = build_frames([flow(3), flow(2, protocol="tcp"), flow(0), flow(4)], first=100)
    packets = [Ether(data) for data in frames.data]
    assert len(frames) == 9
    assert [tag_of(packet)[2] for packet in packets] == list(range(100, 109))
    assert [tag_of(packet)[1] for packet in packets] == list(frames.flows)


@pytest.mark.parametrize(
    ("counts", "order"),
    [
        ([], []),
        ([0], []),
        ([3], [0, 0, 0]),
        ([2, 2], [0, 1, 0, 1]),
        ([1, 3], [0, 1, 1, 1]),
        ([3, 0, 1], [0, 2, 0, 0]),
    ],
)
def test_flows_take_turns(counts: list[int], order: list[int]) -> None:
    assert list(build_frames([flow(count) for count in counts]).flows) == order


def test_frames_of_a_flow_differ_in_number_and_sum_alone() -> None:
    first, second = build_frames([flow(2, size=200)]).data
    differ = {at for at, (a, b) in enumerate(zip(first, second, strict=True)) if a != b}
    assert differ <= {40, 41, 46, 47, 48, 49}


def test_segments_of_a_tcp_flow_follow_each_other() -> None:
    """Else GRO would not merge them, and a receiver would see a hole."""
    frames = build_frames([flow(3, protocol="tcp", size=200), flow(2, protocol="tcp", size=74)])
    sequences: dict[int, list[int]] = {0: [], 1: []}
    for data, number in zip(frames.data, frames.flows, strict=True):
        assert sums_are_right(data)
        sequences[number].append(Ether(data)[TCP].seq)
    assert sequences == {0: [1, 147, 293], 1: [1, 21]}


def test_ports_and_addresses_are_the_flows() -> None:
    ends: dict[str, Any] = {"source": "10.3.0.1", "destination": "10.3.0.2"}
    (data,) = build_frames([flow(source_port=1, destination_port=65535, **ends)]).data
    packet = Ether(data)
    assert (packet[IP].src, packet[IP].dst) == ("10.3.0.1", "10.3.0.2")
    assert (packet[UDP].sport, packet[UDP].dport) == (1, 65535)


@pytest.mark.parametrize("how", [{}, {"protocol": "tcp"}, {"vlan": 5}, {"size": 1514}])
def test_payloads_are_summed_without_their_headers(how: dict[str, Any]) -> None:
    frames = build_frames([flow(2, **{"size": 80, **how})])
    for data, sum_ in zip(frames.data, frames.payload_sums(), strict=True):
        payload = Ether(data)[IP].payload.payload
        assert sum_ == zlib.crc32(bytes(payload))


def test_the_tag_is_the_guests() -> None:
    """struct tag of guest/frame.h."""
    assert TAG.size == 8
    assert struct.unpack("<HHI", TAG.pack(TAG_MAGIC, 7, 9)) == (0xC9A7, 7, 9)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"frames": -1}, "a flow of -1 frames"),
        ({"protocol": "sctp"}, "unknown protocol 'sctp': udp or tcp"),
        ({"size": 49}, "udp frames of 49 bytes have no room: 50"),
        ({"size": JUMBO_BYTES + 1}, "frames of 16385 bytes: 16384 at most"),
        ({"vlan": -1}, "VLAN -1: ids go from 0 to 4094"),
        ({"vlan": 4095}, "VLAN 4095"),
        ({"protocol": "tcp", "size": 61}, "tcp frames of 61 bytes have no room: 62"),
        ({"protocol": "tcp", "vlan": 1, "size": 65}, "no room: 66"),
    ],
)
def test_what_cannot_be(how: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        flow(**{"frames": 1, **how})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_wrong_checksum_is_wrong_in_itself_alone(protocol: str, size: int) -> None:
    if size < 14 + 20 + 20 + TAG.size and protocol == "tcp":
        return
    of: dict[str, Any] = {"protocol": protocol, "size": size}
    good, bad = (
        build_frames([flow(checksum=checksum, **of)], first=size).data[0]
        for checksum in ("right", "wrong")
    )
    at = 14 + 20 + (6 if protocol == "udp" else 16)
    assert sums_are_right(good)
    assert not sums_are_right(bad)
    assert good[:at] + good[at + 2 :] == bad[:at] + bad[at + 2 :]
    assert bad[at : at + 2] != bytes(2)  # which would be none


def test_a_datagram_may_go_without_a_checksum() -> None:
    (data,) = build_frames([flow(checksum="none")]).data
    assert data[40:42] == bytes(2)


@pytest.mark.parametrize(("protocol", "checksum"), [("udp", "odd"), ("tcp", "none")])
def test_checksums_that_there_are_not(protocol: str, checksum: str) -> None:
    with pytest.raises(UserError, match=f"no {protocol} frame has the checksum '{checksum}'"):
        flow(protocol=protocol, size=80, checksum=checksum)


@pytest.mark.parametrize("size", [60, 61, 512, MAX_BYTES])
def test_live_frames_are_those_that_would_be_sent(size: int) -> None:
    sent = build_frames([flow(0), flow(20, size=size)], first=70000)
    assert build_live(flow(20, size=size), 1, first=70000) == sent


@pytest.mark.parametrize("how", [{"protocol": "tcp"}, {"vlan": 5}])
def test_live_frames_can_be_numbered_in_the_guest(how: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="live frames are of UDP"):
        build_live(flow(size=80, **how), 0, first=0)
