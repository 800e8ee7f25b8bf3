"""A capture's own timing, its loops, and the memory that a large one takes."""

from __future__ import annotations

import struct
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter

from harness.errors import UserError
from harness.traffic.frames import TAG, Reel, build_frames
from harness.traffic.pcap import read_capture
from harness.traffic.turns import Pace, take_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CHUNK = 256
MAC = bytes.fromhex("525400637000")
FRAME = bytes(Ether(dst="52:54:00:63:70:f0") / IP() / UDP(sport=5, dport=6) / bytes(38))


def capture_of(path: Path, times: Sequence[float]) -> Path:
    """A capture with a frame at each of these times, in seconds."""
    if path.suffix == ".pcapng":
        packet = Ether(FRAME)
        with PcapNgWriter(str(path)) as writer:
            for packet.time in times:
                writer.write(packet)
        return path
    magic, ticks = (0xA1B23C4D, 10**9) if path.suffix == ".nano" else (0xA1B2C3D4, 10**6)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", magic, 2, 4, 0, 0, 65535, 1))
        for at in times:
            stamp = int(at), round(at % 1 * ticks)
            file.write(struct.pack("<IIII", *stamp, len(FRAME), len(FRAME)) + FRAME)
    return path


@pytest.mark.parametrize("suffix", ["pcap", "nano", "pcapng"])
@pytest.mark.parametrize(
    ("speed", "due_s"), [(1, [0, 0.5, 2]), (2, [0, 0.25, 1]), (0.5, [0, 1, 4])]
)
def test_a_capture_has_its_own_timing(
    tmp_path: Path, suffix: str, speed: float, due_s: list[float]
) -> None:
    path = capture_of(tmp_path / f"x.{suffix}", [7, 7.5, 9])
    capture = read_capture(path, most=9, mac=MAC, speed=speed)
    assert list(capture.due_s) == pytest.approx(due_s)
    assert not read_capture(path, most=9, mac=MAC).due_s


def test_a_loop_begins_an_average_gap_after_the_last(tmp_path: Path) -> None:
    path = capture_of(tmp_path / "x.pcap", [7, 7.5, 9])
    capture = read_capture(path, most=8, mac=MAC, loop=5, speed=1)
    assert capture.frames == 8
    assert list(capture.due_s) == pytest.approx([0, 0.5, 2, 3, 3.5, 5, 6, 6.5])
    frames = build_frames([capture])
    assert [TAG.unpack_from(data, 42)[2] for data in frames.data] == list(range(8))
    assert read_capture(path, most=99, mac=MAC, loop=5).frames == 15
    alone = capture_of(tmp_path / "one.pcap", [7])
    assert list(read_capture(alone, most=9, mac=MAC, loop=3, speed=1).due_s) == [0, 0, 0]


def test_a_frame_that_is_older_than_the_one_before_goes_with_it(tmp_path: Path) -> None:
    path = capture_of(tmp_path / "x.pcap", [7, 8, 6, 7.5, 9])
    assert list(read_capture(path, most=9, mac=MAC, speed=1).due_s) == [0, 1, 1, 1, 2]


def test_a_capture_and_a_flow_take_turns_by_their_times() -> None:
    turns = take_turns([Pace(3, due_s=(0.0, 0.5, 2.0)), Pace(3, rate=2)])
    assert list(turns.due_s) == [0, 0, 0.5, 0.5, 1, 2]
    assert list(turns.flows) == [0, 1, 0, 1, 1, 0]


def test_a_frame_without_a_time_has_no_speed(tmp_path: Path) -> None:
    """A pcapng file of a section, an interface and a simple packet block."""
    blocks = [
        (0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)),
        (1, struct.pack("<HHI", 1, 0, 65535)),
        (3, struct.pack("<I", len(FRAME)) + FRAME),
    ]
    path = tmp_path / "x.pcapng"
    with path.open("wb") as file:
        for kind, body in blocks:
            size = struct.pack("<I", len(body) + 12)
            file.write(struct.pack("<I", kind) + size + body + size)
    assert read_capture(path, most=9, mac=MAC).frames == 1
    with pytest.raises(UserError, match="has frames without a time, such as frame 1") as refused:
        read_capture(path, most=9, mac=MAC, speed=1)
    assert "leave out `speed`" in refused.value.remedy


@pytest.mark.parametrize("left", [0, 1])
def test_a_capture_that_changes_meanwhile_is_refused(tmp_path: Path, left: int) -> None:
    path = capture_of(tmp_path / "x.pcap", range(5))
    reel = Reel([read_capture(path, most=9, mac=MAC)], [0] * 5)
    capture_of(path, range(left))
    if left:  # another loop, as it seems
        assert len(reel.take(1)) == 1
        path.unlink()
    with pytest.raises(UserError, match=r"was changed while|cannot be read|no capture"):
        reel.take(5)


def peak(path: Path, frames: int, loop: int) -> int:
    """Return the most bytes that were in use while a capture was read and its frames made."""
    tracemalloc.start()
    capture = read_capture(path, most=10**6, mac=MAC, loop=loop, speed=1000)
    turns = take_turns([Pace(capture.frames, due_s=capture.due_s)])
    reel = Reel([capture], turns.flows)
    assert len(reel) == frames
    for start, end in pairwise([*range(0, frames, CHUNK), frames]):
        assert len(reel.take(end)) == end - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_of_a_large_capture_no_more_than_its_times_are_in_memory(tmp_path: Path) -> None:
    """Per frame: 8 bytes for its time, 12 for its turn, and what an array holds in reserve."""
    least, much = 2_000, 20_000
    small = capture_of(tmp_path / "small.pcap", [n / 1e4 for n in range(least)])
    large = capture_of(tmp_path / "large.pcap", [n / 1e4 for n in range(much)])
    assert large.stat().st_size > (much - 1) * 70
    few = peak(small, least, 1)
    assert peak(large, much, 1) - few < 32 * (much - least)
    assert peak(small, much, much // least) - few < 32 * (much - least)
