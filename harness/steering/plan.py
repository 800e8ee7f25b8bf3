"""What a steered run is to be, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

SELECTORS = {"frame": 0, "flow": 1, "port": 2, "hash": 3}
"""`enum selector` of guest/bpf/steer.bpf.c: what picks a frame's target."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How frames are steered.

    Attributes:
        targets: keys of the cpumap, taken in turn.
        entries: qsize of each entry to make in each map, by CPU.
        by: what picks a frame's target: its running number ("frame": round-robin), "flow",
            "port" (destination) or "hash" (of addresses and ports).
        mode: "native" or "generic" XDP, or "mixed": the first NIC native, the others generic.
        modes: of each NIC, instead of `mode`.
        flags: of bpf_redirect_map: in its low two bits the action for a missing entry.
        frames: how many frames the run may have.
        socket: deliver to a UDP socket; else the frames end at tc ingress.
        stack: without a socket, hand the frames on to the stack all the same.
        nics: the NICs that frames come in by, each with an XDP program of its own.
        maps: how many cpumaps; the programs take them in turn.
        max_entries: of a cpumap; None is the number of the guest's CPUs.
        live: the guest makes the frames itself, instead of receiving them (5.18).
        frags: frames may lie in several buffers: the XDP programs are loaded so.
        gro: frames may be merged on their way to the stack: the books count segments.
        metadata: the programs give each frame its number as metadata.
        object: path in the guest of another object file to steer with (guest/bpf/steer.h), or "".
    """

    targets: tuple[int, ...]
    entries: Mapping[int, int]
    by: str = "frame"
    mode: str = "native"
    flags: int = 0
    frames: int = 65536
    socket: bool = True
    stack: bool = False
    nics: tuple[int, ...] = (0,)
    maps: int = 1
    max_entries: int | None = None
    gro: bool = False
    metadata: bool = False
    modes: tuple[str, ...] = ()
    object: str = ""
    frags: bool = False
    live: bool = False

    def __post_init__(self) -> None:
        if self.by not in SELECTORS:
            raise UserError(f"unknown selector {self.by!r}: one of {', '.join(SELECTORS)}")
        if not self.targets:
            raise UserError("no targets to steer frames to")

    def mode_of(self, place: int) -> str:
        """Return the XDP mode of the program on the `place`-th of the NICs."""
        if self.modes:
            return self.modes[place]
        if self.mode == "mixed":
            return "generic" if place else "native"
        return self.mode

    @property
    def mode_of_all(self) -> str:
        """The mode of all programs, "mixed" if they differ."""
        modes = set(self.modes) or {self.mode}
        return modes.pop() if len(modes) == 1 else "mixed"
