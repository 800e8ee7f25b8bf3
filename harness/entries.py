"""Programs for the entries of a cpumap, loaded and told what to do."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.agent.bpf import load_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.agent.bpf import CpuMap, Map, Program
    from harness.guest import Guest


LOOK, LOOK_FRAGS = "/bpf/entry_look.bpf.o", "/bpf/entry_look_frags.bpf.o"


def load_verdicts(guest: Guest, verdicts: Sequence[int]) -> Program:
    """Load a program that answers these verdicts in turn, by the frames' numbers.

    Raises:
        GuestError: the kernel refuses it.
    """
    maps, programs = load_object(guest.calls, "/bpf/entry_verdict.bpf.o", {})
    maps["length"].update(0, struct.pack("<I", len(verdicts))).must("set the number of verdicts")
    for at, verdict in enumerate(verdicts):
        maps["table"].update(at, struct.pack("<I", verdict)).must("set a verdict")
    return _only(programs, maps)


def load_onward(guest: Guest, cpumap: CpuMap, cpu: int, *, every: int = 1) -> Program:
    """Load a program that redirects every n-th frame to an entry of a cpumap; others it passes.

    Raises:
        GuestError: the kernel refuses it.
    """
    shared = {"cpus": ("fd", cpumap.fd)}
    maps, programs = load_object(guest.calls, "/bpf/entry_onward.bpf.o", shared)
    maps["target"].update(0, struct.pack("<II", cpu, every)).must("set the target")
    return _only(programs, maps)


def load_device(guest: Guest, ifindex: int) -> Program:
    """Load a program that sends every frame out by a device.

    Raises:
        GuestError: the kernel refuses it.
    """
    maps, programs = load_object(guest.calls, "/bpf/entry_device.bpf.o", {})
    maps["devices"].update(0, struct.pack("<I", ifindex)).must("set the device")
    return _only(programs, maps)


@dataclass(frozen=True, slots=True)
class Look:
    """What an entry's program saw of one frame.

    Attributes:
        count: how often it saw the frame.
        cpu: on which CPU.
        ingress_ifindex: of its `struct xdp_md`.
        rx_queue_index: likewise.
        metadata: 1 more than the number that the frame's metadata told; 0 without any.
        length: bytes of the frame, in all its buffers.
    """

    count: int
    cpu: int
    ingress_ifindex: int
    rx_queue_index: int
    metadata: int
    length: int


class Looker:
    """A program that notes what it sees, and may move a frame's ends.

    Args:
        guest: where.
        frames: how many frames to have notes for.
        tail: bytes to cut off each frame's tail.
        head: bytes to grow each frame's head by, and to cut again.
        untag: take each frame's outer VLAN tag out, and have it grow as much behind.
        frags: take frames in several buffers, as all programs of the map have to then.

    Attributes:
        program: the program.

    Raises:
        GuestError: the kernel refuses it.
    """

    def __init__(
        self,
        guest: Guest,
        *,
        frames: int,
        tail: int = 0,
        head: int = 0,
        untag: bool = False,
        frags: bool = False,
    ) -> None:
        sizes = {"looks": ("max_entries", frames)}
        maps, programs = load_object(guest.calls, LOOK_FRAGS if frags else LOOK, sizes)
        changes = struct.pack("<III", tail, head, untag)
        maps["changes"].update(0, changes).must("set the changes")
        self._looks = maps.pop("looks")
        self._frames = frames
        self.program = _only(programs, maps)

    def looks(self) -> list[Look]:
        """Return what it saw, by frame number."""
        values = self._looks.read_first(self._frames)
        return [Look(*fields) for fields in struct.iter_unpack("<6I", values)]


def _only(programs: dict[str, Program], maps: dict[str, Map]) -> Program:
    """Return the object's one program; what it refers to lives on with it."""
    for descriptor in maps.values():
        descriptor.close()
    (program,) = programs.values()
    return program
