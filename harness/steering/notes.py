"""The programs on both sides of the cpumaps, and what they note of each frame."""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING

from harness.agent.bpf import load_object
from harness.guest import ARRIVE, STEER, STEER_FRAGS
from harness.steering.plan import SELECTORS
from harness.trace.events import XdpAction
from harness.trace.hops import HopTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.agent.bpf import CpuMap, Map, Program
    from harness.guest import Guest
    from harness.steering.plan import Plan

TC_ACT_OK, TC_ACT_SHOT = 0, 2


class XdpSide:
    """An XDP program for each NIC of a run, and a twin of each for live frames.

    Args:
        guest: where.
        plan: how they steer.
        cpumaps: what they redirect into, in turn.

    Attributes:
        programs: by the NIC's place in the plan.
        live: their twins; none of a user's own object.
        ids: of all of them, also when they are gone.

    Raises:
        GuestError: the kernel refuses a program.
    """

    def __init__(self, guest: Guest, plan: Plan, cpumaps: Sequence[CpuMap]) -> None:
        self._guest = guest
        self._plan = plan
        self._notes: dict[str, Map] = {}
        self.programs: list[Program] = []
        self.live: list[Program] = []
        for place, _ in enumerate(plan.nics):
            self._load(cpumaps[place % len(cpumaps)])
        self.ids = frozenset(program.id for program in (*self.programs, *self.live))

    def _load(self, cpumap: CpuMap) -> None:
        """Load one more program and its twin: all of a run write into the same notes."""
        plan = self._plan
        shared: dict[str, tuple[str, int]] = {"cpus": ("fd", cpumap.fd)}
        for name in ("hops", "orders", "strays", "verdict_counts", "numbers"):
            if name in self._notes:
                shared[name] = ("fd", self._notes[name].fd)
            elif name == "hops":
                shared[name] = ("max_entries", plan.frames)
        path = plan.object or (STEER_FRAGS if plan.frags else STEER)
        maps, programs = load_object(self._guest.calls, path, shared)
        self._notes = self._notes or maps
        selector, targets = SELECTORS[plan.by], len(plan.targets)
        how = struct.pack("<IIQQ", selector, targets, plan.flags, plan.metadata)
        if "steering" in maps:
            maps["steering"].update(0, how).must("set the steering")
        for at, cpu in enumerate(plan.targets if "targets" in maps else ()):
            maps["targets"].update(at, struct.pack("<I", cpu)).must("set a target")
        maps["cpus"].close()
        self.programs.append(programs.get("steer") or next(iter(programs.values())))
        if not plan.object:
            self.live.append(programs["live"])

    @property
    def strays(self) -> Map:
        """Frames of no account, by CPU."""
        return self._notes["strays"]

    @property
    def numbers(self) -> Map:
        """The next live frame's number, by CPU; not with a user's own object."""
        return self._notes["numbers"]

    def answered(self) -> tuple[Counter[XdpAction], Counter[XdpAction]]:
        """Return how many frames were answered with each action: of the wire's, and live ones."""
        counts = self._notes["verdict_counts"].sum_over_cpus(self._guest.cpus)
        kinds = counts[: len(XdpAction)], counts[len(XdpAction) :]
        wire, live = (Counter(dict(zip(XdpAction, kind, strict=True))) for kind in kinds)
        return wire, live

    def hops(self, frames: int) -> HopTable:
        """Return the notes of the first frames, by number."""
        return HopTable(self._notes["hops"].read_first(frames))

    def close(self) -> None:
        """Drop the programs; the notes stay readable.

        Raises:
            GuestError: something was closed before, elsewhere.
        """
        for program in (*self.programs, *self.live):
            program.close()


TRAITS = ("mark", "priority", "hash")
"""`enum trait` of guest/bpf/arrive.bpf.c."""


class TcSide:
    """The tc program at the ingress of a run's NICs, where frames come out of the cpumaps.

    Args:
        guest: where.
        plan: whether frames end there, and which NICs there are.
        ifindexes: of the NICs.

    Raises:
        GuestError: the kernel refuses the program.
    """

    def __init__(self, guest: Guest, plan: Plan, ifindexes: Sequence[int]) -> None:
        self._cpus = guest.cpus
        sizes: Mapping[str, tuple[str, int]] = dict.fromkeys(
            ("hops", "metadata") if plan.metadata else ("hops",), ("max_entries", plan.frames)
        )
        self._calls = guest.calls
        self._notes, programs = load_object(guest.calls, ARRIVE, sizes)
        self._program = programs["arrive"]
        answer = struct.pack("<I", TC_ACT_OK if plan.socket or plan.stack else TC_ACT_SHOT)
        self._notes["answer"].update(0, answer).must("set the answer at tc ingress")
        for ifindex in ifindexes:
            self.attach(ifindex)

    def attach(self, ifindex: int) -> None:
        """Attach the program to a NIC.

        Raises:
            GuestError: the kernel refuses it.
        """
        self._calls.link.call("tc_attach", ifindex, self._program.fd)

    def delivered(self) -> int:
        """Return how many frames have come there so far (GRO: segments)."""
        (segments,) = self._notes["segments"].sum_over_cpus(self._cpus)
        return segments

    def hops(self, frames: int) -> HopTable:
        """Return the notes of the first frames, by number."""
        return HopTable(self._notes["hops"].read_first(frames))

    def metadata(self, frames: int) -> list[int | None]:
        """Return the number that each frame's metadata told, None without any."""
        told = self._notes["metadata"].read_first(frames)
        return [number - 1 if number else None for (number,) in struct.iter_unpack("<I", told)]

    def traits(self) -> dict[str, int]:
        """Return how many skbs came with a mark, a priority or a hash."""
        counts = self._notes["traits"].sum_over_cpus(self._cpus)
        return dict(zip(TRAITS, counts, strict=True))
