"""What a scenario is: the model of its YAML's top level."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from harness.forms.model import Line, Model, Spec, contradict
from harness.machine.topology import MAX_CPUS, MIN_MEMORY_MIB, Launcher
from harness.model import gates
from harness.scenario.conflicts import find_conflicts
from harness.scenario.parts import (
    MAX_APPEND,
    MAX_SEED,
    Entry,
    Expect,
    Matrix,
    Nic,
    Steer,
    Step,
    Traffic,
    listed,
)
from harness.scenario.words import MAX_NICS, SPECS, Cpus, FilePath, Key, Rate, TargetAddress, Title
from harness.traffic.frames import JUMBO_BYTES

MAX_MEMORY_MIB = 65536
MIN_MTU = 576
MAX_FLOWS = 1024
MAX_STEPS = 1000
EPHEMERAL = range(32768, 61000)
"""Linux's own range of source ports."""
NEEDS = {
    "gro": gates.GRO,
    "generic": gates.STACK_KNOWS_CPUMAP_GENERIC,
    "every-skb": gates.EVERY_SKB_RUN,
    "frags": gates.SEVERAL_BUFFERS,
}
"""Behaviours that a scenario may need of its kernel."""


class Scenario(Model):
    """One scenario: a guest, cpumaps in it, frames, and what has to become of them."""

    name: Title = Field(description="what it is called in reports")
    description: str = Field(default="", description="what it is for")
    kernel: Annotated[
        tuple[Spec, ...],
        BeforeValidator(listed, json_schema_input_type=str | list[str]),
        Field(min_length=1),
        SPECS,
    ] = Field(default=(), description="the kernels to run it on, one after the other")
    needs: tuple[Literal["gro", "generic", "every-skb", "frags"], ...] = Field(
        default=(), description="what a kernel must be able to do, or the scenario is skipped"
    )
    append: Annotated[Line, Field(max_length=MAX_APPEND)] = Field(
        default="", description="added to the kernel command line"
    )
    cpus: Cpus = Field(default=4, description="virtual CPUs of the guest")
    spare_cpus: Annotated[int, Field(ge=0, le=MAX_CPUS)] = Field(
        default=0,
        description="CPUs behind the others that a step can `plug` in; they are out at first",
    )
    offline: tuple[Key, ...] = Field(
        default=(), description="CPUs that are taken offline before anything else"
    )
    memory_mib: int = Field(
        default=512, ge=MIN_MEMORY_MIB, le=MAX_MEMORY_MIB, description="RAM of the guest in MiB"
    )
    nodes: Annotated[int, Field(ge=1, le=8)] = Field(
        default=1, description="NUMA nodes; each has its equal part of the CPUs and the memory"
    )
    mtu: Annotated[int, Field(ge=MIN_MTU, le=JUMBO_BYTES)] = Field(
        default=1500, description="MTU of the NICs"
    )
    frags: bool = Field(
        default=False,
        description="the XDP programs take frames in several buffers: in native mode those of more "
        "than 3508 bytes",
    )
    nics: Annotated[tuple[Nic, ...], Field(min_length=1, max_length=MAX_NICS)] = Field(
        default=(Nic(),), description="the NICs of the guest"
    )
    injector: Literal["auto", "socket", "tap", "live", "veth"] = Field(
        default="auto",
        description="how frames get in: by a NIC over a socket or a tap, made in the guest (live, "
        "since 5.18; before, veth), or by a veth pair in it; auto is a tap where a NIC has several "
        "queues, veth on a target and a socket elsewhere",
    )
    launcher: Launcher = Field(
        default="qemu",
        description="what boots the guest: the lab itself, or virtme-ng on this machine's own root",
    )
    target: TargetAddress | None = Field(
        default=None,
        description="the machine to run on instead of a guest, with the kernel that it has",
    )
    ssh: bool = Field(
        default=False, description="the guest has an sshd, to log in while the scenario runs"
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="of all that is drawn by lot")
    steer: Steer = Field(default=Steer(), description="how frames are spread over CPUs")
    entries: tuple[Entry, ...] = Field(max_length=MAX_CPUS * 8, description="the cpumaps' entries")
    socket: bool = Field(
        default=True, description="whether a UDP socket receives what is delivered"
    )
    gro: bool | None = Field(
        default=None,
        description="frames may be merged on their way to the stack, and are counted; by default "
        "where there is TCP",
    )
    traffic: tuple[Traffic, ...] = Field(
        min_length=1, max_length=MAX_FLOWS, description="the flows of frames to send"
    )
    rate: Rate | None = Field(
        default=None,
        description="frames per second at most; as fast as the guest takes them if left out",
    )
    timeline: tuple[Step, ...] = Field(
        default=(), max_length=MAX_STEPS, description="actions while traffic flows, in order"
    )
    expect: Expect = Field(default=Expect(), description="what has to become of the frames")
    extends: FilePath | None = Field(
        default=None, description="a scenario file whose keys hold unless they are given here"
    )
    matrix: Matrix | None = Field(
        default=None, description="values to run it with, each with each, as a run of its own"
    )

    @model_validator(mode="after")
    def _check_conflicts(self) -> Self:
        conflicts = list(find_conflicts(self))
        if conflicts:
            raise contradict(conflicts)
        return self

    @property
    def specs(self) -> tuple[str, ...]:
        """What it runs on, one after the other: kernels, or its target."""
        return (self.target,) if self.target else self.kernel

    @property
    def frames(self) -> int:
        """All frames of its traffic, at most."""
        return sum(flow.frames for flow in self.traffic)

    @property
    def targets(self) -> tuple[int, ...]:
        """The CPUs that frames are steered to, in turn."""
        first = (entry.cpu for entry in self.entries if entry.map == 0)
        return self.steer.to or tuple(first) or tuple(entry.cpu for entry in self.entries)

    @property
    def maps(self) -> int:
        """How many cpumaps it has."""
        parts: list[Entry | Step] = [*self.entries, *self.timeline]
        numbers = {part.map for part in parts}
        programs = [part.program for part in parts]
        return 1 + max(numbers | {p.to_map for p in programs if p and p.to_map} | {0})

    @property
    def possible_cpus(self) -> int:
        """The CPUs that its guest ever has."""
        return self.cpus + self.spare_cpus

    @property
    def pluggable(self) -> bool:
        """Whether a step takes a NIC out."""
        return any(step.do == "unplug" and step.nic is not None for step in self.timeline)

    @property
    def modes(self) -> tuple[str, ...]:
        """The XDP mode of each NIC."""
        return tuple(nic.mode or self.steer.mode for nic in self.nics)

    @property
    def taps(self) -> tuple[int, ...]:
        """The queues of the tap behind each NIC, 0 for those without."""
        least = 1 if self.injector == "tap" else 2
        return tuple(nic.queues if nic.queues >= least else 0 for nic in self.nics)

    @property
    def undisturbed(self) -> tuple[int, ...]:
        """The CPUs that are there, and run what they like, from the beginning to the end."""
        steps = ("hold", "offline", "unplug")
        not_there = {*self.offline, *(s.cpu for s in self.timeline if s.do in steps)}
        return tuple(cpu for cpu in range(self.cpus) if cpu not in not_there)

    def expand(self) -> Scenario:
        """Return the same scenario with nothing left to defaults that depend on other keys."""
        ports = random.Random(self.seed).sample(EPHEMERAL, len(self.traffic))
        traffic = tuple(
            flow if flow.source_port or flow.pcap else flow.model_copy(update={"source_port": port})
            for flow, port in zip(self.traffic, ports, strict=True)
        )
        steer = self.steer.model_copy(update={"to": self.targets})
        gro = any(flow.protocol == "tcp" or flow.pcap for flow in self.traffic)
        own = {"steer": steer, "traffic": traffic, "gro": gro if self.gro is None else self.gro}
        if self.target and self.injector == "auto":
            own["injector"] = "veth"
        return self.model_copy(update=own)


STAND_INS: dict[str, Any] = {
    "name": "-",
    "entries": ({"cpu": 0, "qsize": 1},),
    "traffic": ({"frames": 1},),
}
"""Values for required keys, so that the others can be checked while these are wrong."""
