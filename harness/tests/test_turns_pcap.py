"""The order of frames, bursts and rates; captures made accountable."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.utils import PcapNgWriter, wrpcap

from harness.errors import UserError
from harness.traffic.frames import TAG, TAG_MAGIC, build_frames
from harness.traffic.pcap import find_shape, read_capture
from harness.traffic.turns import Pace, take_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scapy.packet import Packet

MAC = bytes.fromhex("525400637000")
ETHER = Ether(src="52:54:00:63:70:01", dst="52:54:00:63:70:02")
"""Without addresses scapy asks the network for them, by ARP, and waits."""
UDP4 = ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=5, dport=6) / bytes(range(30))
OPTIONS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
GOOD = [
    UDP4,
    ETHER / IP() / TCP(sport=1, dport=2, options=OPTIONS) / (b"x" * 20),
    ETHER / Dot1Q(vlan=5) / IP() / UDP() / (b"x" * 9),
    ETHER / IPv6() / TCP() / (b"x" * 1400),
    ETHER / IPv6() / UDP() / (b"x" * 8),
]
BAD = [
    ETHER / ARP(),
    ETHER / IP() / ICMP() / (b"x" * 40),
    ETHER / IP() / TCP(),
    ETHER / IP() / UDP() / (b"x" * 7),
    ETHER / IP(frag=3) / UDP() / (b"x" * 30),
    ETHER / IP(flags="MF") / UDP() / (b"x" * 30),
    ETHER / IP(options=[b"\x01" * 4]) / UDP() / (b"x" * 30),
    ETHER / IP() / UDP() / (b"x" * 1500),
]


def test_flows_take_turns() -> None:
    assert tuple(take_turns([Pace(3), Pace(1)]).flows) == (0, 1, 0, 0)
    turns = take_turns([Pace(5, burst=2), Pace(2)])
    assert tuple(turns.flows) == (0, 0, 1, 0, 0, 1, 0)
    assert turns.rests == (3, 6)
    assert tuple(take_turns([Pace(2)], rate=4).due_s) == (0.0, 0.25)


def test_each_flow_has_its_rate() -> None:
    turns = take_turns([Pace(4, rate=10), Pace(2, rate=5)])
    assert turns.due_s == pytest.approx((0.0, 0.0, 0.1, 0.2, 0.2, 0.3))
    assert tuple(turns.flows) == (0, 1, 0, 0, 1, 0)
    assert take_turns([Pace(4, rate=10, burst=2)]).due_s == pytest.approx((0, 0, 0.2, 0.2))
    assert turns.rests == ()


def write(path: Path, frames: Sequence[Packet]) -> Path:
    if path.suffix == ".pcap":
        wrpcap(str(path), frames)
    else:
        with PcapNgWriter(str(path)) as writer:
            writer.write(frames)
    return path


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
def test_frames_that_can_be_numbered_are(tmp_path: Path, suffix: str) -> None:
    mixed = [each for pair in zip(BAD, [*GOOD, *GOOD], strict=False) for each in pair]
    path = write(tmp_path / f"x.{suffix}", mixed)
    capture = read_capture(path, most=100, mac=MAC)
    assert (capture.frames, capture.left_out) == (8, 8)
    frames = build_frames([capture], first=7)
    for number, (data, was) in enumerate(zip(frames.data, [*GOOD, *GOOD], strict=False), 7):
        now = Ether(data)
        sums = Ether(bytes(was))
        shape = find_shape(data)
        assert shape
        magic, _, tagged = TAG.unpack_from(data, shape.payload)
        assert (magic, tagged, data[:6]) == (TAG_MAGIC, number, MAC)
        # scapy reckons anew what was left out
        l4 = TCP if TCP in now else UDP
        mended, now[l4].chksum = now[l4].chksum, None
        assert Ether(bytes(now))[l4].chksum == mended != sums[l4].chksum
        assert data[shape.payload + 8 :].startswith(bytes(was)[shape.payload + 8 :])


def test_no_more_is_read_than_wanted(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    wrpcap(str(path), [UDP4] * 5)
    path.write_bytes(path.read_bytes() + b"rubbish" * 9)
    assert read_capture(path, most=3, mac=MAC).frames == 3


def test_flows_of_a_capture_differ(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    other = ETHER / IP(src="192.0.2.9") / UDP() / bytes(30)
    wrpcap(str(path), [UDP4, other, UDP4])
    frames = build_frames([read_capture(path, most=9, mac=MAC)])
    one, two, three = (TAG.unpack_from(data, 42)[1] for data in frames.data)
    assert one == three != two


def test_what_is_no_capture(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    for content in (b"", b"hello world, this is no capture", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="no capture that can be read"):
            read_capture(path, most=9, mac=MAC)
    wrpcap(str(path), BAD)
    with pytest.raises(UserError, match="none of the 8 frames"):
        read_capture(path, most=9, mac=MAC)
    wrpcap(str(path), [IP() / UDP() / bytes(30)], linktype=101)
    with pytest.raises(UserError, match="something else than Ethernet"):
        read_capture(path, most=9, mac=MAC)


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
def test_a_capture_that_is_cut_off_is_refused(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / f"cut.{suffix}", [UDP4] * 3)
    whole = path.read_bytes()
    assert read_capture(path, most=9, mac=MAC).frames == 3
    # a block of pcapng ends with its length
    record = len(UDP4) + 16 if suffix == "pcap" else int.from_bytes(whole[-4:], sys.byteorder)
    for cut in (1, 2, 5, 20, record - 17, record - 5, record - 1):
        path.write_bytes(whole[:-cut])
        with pytest.raises(UserError, match=r"is cut off: .* its record \d+ ends at byte"):
            read_capture(path, most=9, mac=MAC)
        assert read_capture(path, most=2, mac=MAC).frames == 2  # it is read no further
    path.write_bytes(whole[:-record])
    assert read_capture(path, most=9, mac=MAC).frames == 2
    assert capfd.readouterr().err == ""


def test_frames_that_were_cut_short_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    data = bytes(UDP4)
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    whole = struct.pack("<IIII", 0, 0, len(data), len(data)) + data
    cut = struct.pack("<IIII", 0, 0, len(data) - 1, len(data)) + data[:-1]
    path.write_bytes(head + whole + cut)
    capture = read_capture(path, most=9, mac=MAC)
    assert (capture.frames, capture.left_out) == (1, 1)


def test_no_bytes_break_the_parser() -> None:
    for packet in (*GOOD, *BAD):
        data = bytes(packet)
        for size in range(len(data[:90])):
            find_shape(data[:size].ljust(60, b"\0"))
            find_shape(data[:size])
