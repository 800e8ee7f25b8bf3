"""Injected frames, and those of them that were delivered, as pcap."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.report.story import Story

ETHERNET = 1
"""LINKTYPE_ETHERNET."""


def write_injected(story: Story) -> bytes:
    """Return a pcap of the frames in the order in which they were injected."""
    return _write(enumerate(story.frames))


def write_delivered(story: Story) -> bytes:
    """Return a pcap of the frames that reached the stack, each as it was injected.

    What happened to them on the way is not known: only their numbers are.
    """
    frames, numbers = story.frames, sorted(arrival.frame for arrival in story.arrivals)
    return _write((number, frames[number]) for number in numbers if number < len(frames))


def _write(frames: Iterable[tuple[int, bytes]]) -> bytes:
    """Return a pcap; a frame's time is its number in µs, so that files can be laid side by side."""
    # scapy takes half a second to import: only who writes pcaps pays for it
    from scapy.utils import RawPcapWriter  # noqa: PLC0415

    file = io.BytesIO()
    writer = RawPcapWriter(file, linktype=ETHERNET)
    writer.write_header(None)
    for number, frame in frames:
        seconds, microseconds = divmod(number, 1_000_000)
        writer.write_packet(frame, sec=seconds, usec=microseconds)
    return file.getvalue()
