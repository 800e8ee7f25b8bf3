"""What a scenario is: models of its YAML, and the checks that no single field can make."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from harness.forms.model import EACH, ONE, Conflict, Line, Model, Name, Spec, Words, contradict
from harness.machine.topology import MAX_CPUS, MIN_MEMORY_MIB
from harness.traffic import frames as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MEMORY_MIB = 65536
MAX_QSIZE = 16384
"""cpu_map_update_elem refuses more (EOVERFLOW)."""
MAX_KEY = 8191
"""The largest key that a cpumap may have at NR_CPUS=8192."""
MAX_TARGETS = 1024
"""Room for targets in guest/bpf/steer.bpf.c."""
MAX_FLOWS = 1024
MAX_FRAMES = 1_000_000
MAX_SEED = (1 << 64) - 1
MAX_APPEND = 1024
"""Characters; the whole of an x86 kernel's command line has 2048."""
EPHEMERAL = range(32768, 61000)
"""Linux's own range of source ports."""


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _member(value: object) -> str:
    return EACH if isinstance(value, dict) else ONE


SPECS = Words("a kernel spec such as debian:6.1, or a list of them")
Key = Annotated[int, Field(ge=0, le=MAX_KEY)]
Count = Annotated[int, Field(ge=0, le=MAX_FRAMES)]
Port = Annotated[int, Field(ge=1, le=65535)]
Counts = Annotated[
    Annotated[Count, Tag(ONE)] | Annotated[dict[Key, Count], Tag(EACH)], Discriminator(_member)
]
"""Frames in all, or by CPU; CPUs that are not named have none."""


class Steer(Model):
    """How the XDP program picks the CPU of a frame."""

    by: Literal["frame", "flow", "port", "hash"] = Field(
        default="frame", description="what picks a frame's target: its number, flow, port or hash"
    )
    to: Annotated[tuple[Key, ...], Field(min_length=1, max_length=MAX_TARGETS)] | None = Field(
        default=None, description="the CPUs, taken in turn; by default those of the entries"
    )
    mode: Literal["native", "generic"] = Field(default="native", description="the XDP hook")
    miss: Literal["aborted", "drop", "pass", "tx"] = Field(
        default="aborted",
        description="the action for a CPU without an entry (bpf_redirect_map's flags)",
    )


class Entry(Model):
    """An entry of the cpumap."""

    cpu: Key = Field(description="its key: the CPU that its kthread is bound to")
    qsize: int = Field(ge=1, le=MAX_QSIZE, description="frames that its ring holds")


class Traffic(Model):
    """A flow of equal frames; several are interleaved one by one."""

    frames: int = Field(ge=1, le=MAX_FRAMES, description="how many")
    size: int = Field(
        default=64,
        ge=wire.MIN_BYTES,
        le=wire.MAX_BYTES,
        description="bytes, from the Ethernet header on",
    )
    protocol: Literal["udp", "tcp"] = Field(default="udp", description="L4 protocol")
    source_port: Port | None = Field(
        default=None, description="drawn by the seed if it is left out"
    )
    destination_port: Port | None = Field(
        default=None, description="the socket's if it is left out"
    )
    vlan: Annotated[int, Field(ge=1, le=4094)] | None = Field(
        default=None, description="VLAN id of an 802.1Q tag"
    )


class Expect(Model):
    """What the books must say; whatever is left out may be anything that balances."""

    delivered: Counts | None = Field(default=None, description="frames that reach the stack")
    dropped: Counts | None = Field(default=None, description="frames that a full ring refuses")
    aborted: Count | None = Field(default=None, description="frames with the verdict XDP_ABORTED")
    passed: Count | None = Field(default=None, description="frames with the verdict XDP_PASS")


class Scenario(Model):
    """One scenario: a guest, a cpumap in it, frames, and what has to become of them."""

    name: Name = Field(description="what it is called in reports")
    description: str = Field(default="", description="what it is for")
    kernel: Annotated[tuple[Spec, ...], BeforeValidator(_listed), Field(min_length=1), SPECS] = (
        Field(default=(), description="the kernels to run it on, one after the other")
    )
    append: Annotated[Line, Field(max_length=MAX_APPEND)] = Field(
        default="", description="added to the kernel command line"
    )
    cpus: int = Field(default=4, ge=1, le=MAX_CPUS, description="virtual CPUs of the guest")
    memory_mib: int = Field(
        default=512, ge=MIN_MEMORY_MIB, le=MAX_MEMORY_MIB, description="RAM of the guest in MiB"
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="of all that is drawn by lot")
    steer: Steer = Field(default=Steer(), description="how frames are spread over CPUs")
    entries: tuple[Entry, ...] = Field(max_length=MAX_CPUS, description="the cpumap's entries")
    socket: bool = Field(
        default=True, description="whether a UDP socket receives what is delivered"
    )
    traffic: tuple[Traffic, ...] = Field(
        min_length=1, max_length=MAX_FLOWS, description="the flows of frames to send"
    )
    rate: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None,
        description="frames per second at most; as fast as the guest takes them if left out",
    )
    expect: Expect = Field(default=Expect(), description="what has to become of the frames")

    @model_validator(mode="after")
    def _check_conflicts(self) -> Self:
        conflicts = list(find_conflicts(self))
        if conflicts:
            raise contradict(conflicts)
        return self

    @property
    def frames(self) -> int:
        """All frames of its traffic."""
        return sum(flow.frames for flow in self.traffic)

    @property
    def targets(self) -> tuple[int, ...]:
        """The CPUs that frames are steered to, in turn."""
        return self.steer.to or tuple(entry.cpu for entry in self.entries)

    def expand(self) -> Scenario:
        """Return the same scenario with nothing left to defaults that depend on other keys."""
        ports = random.Random(self.seed).sample(EPHEMERAL, len(self.traffic))
        traffic = tuple(
            flow if flow.source_port else flow.model_copy(update={"source_port": port})
            for flow, port in zip(self.traffic, ports, strict=True)
        )
        steer = self.steer.model_copy(update={"to": self.targets})
        return self.model_copy(update={"steer": steer, "traffic": traffic})


STAND_INS: dict[str, Any] = {
    "name": "-",
    "entries": ({"cpu": 0, "qsize": 1},),
    "traffic": ({"frames": 1},),
}
"""Values for required keys, so that the others can be checked while these are wrong."""


def find_conflicts(scenario: Scenario) -> Iterator[Conflict]:
    """Find what is right key by key and wrong together."""
    yield from _check_cpus(scenario)
    yield from _check_expectations(scenario)
    for number, flow in enumerate(scenario.traffic):
        for key, why in _check_flow(flow, socket=scenario.socket):
            yield Conflict(("traffic", number, key), why, frozenset({"traffic", "socket"}))
    if scenario.frames > MAX_FRAMES:
        why = f"{scenario.frames} frames in all; at most {MAX_FRAMES} are possible"
        yield Conflict(("traffic",), why, frozenset({"traffic"}))


def _check_cpus(scenario: Scenario) -> Iterator[Conflict]:
    first: dict[int, int] = {}
    for number, entry in enumerate(scenario.entries):
        at = ("entries", number, "cpu")
        if entry.cpu >= scenario.cpus:
            yield Conflict(at, _beyond(entry.cpu, scenario), frozenset({"entries", "cpus"}))
        if entry.cpu in first:
            why = f"CPU {entry.cpu} has an entry already, entries[{first[entry.cpu]}]"
            yield Conflict(at, why, frozenset({"entries"}))
        first.setdefault(entry.cpu, number)
    if not scenario.targets:
        why = "an empty cpumap and no `steer.to`: there is nowhere to steer frames to"
        yield Conflict(("entries",), why, frozenset({"entries", "steer"}))


def _check_expectations(scenario: Scenario) -> Iterator[Conflict]:
    for key in ("delivered", "dropped"):
        counts = getattr(scenario.expect, key)
        for cpu in counts if isinstance(counts, dict) else ():
            if cpu >= scenario.cpus:
                needs = frozenset({"expect", "cpus"})
                yield Conflict(("expect", key, cpu), _beyond(cpu, scenario), needs)


def _beyond(cpu: int, scenario: Scenario) -> str:
    last = scenario.cpus - 1
    return f"there is no CPU {cpu}: the guest has {'CPU 0' if not last else f'CPUs 0 to {last}'}"


def _check_flow(flow: Traffic, *, socket: bool) -> Iterator[tuple[str, str]]:
    own = {"protocol": flow.protocol, "vlan": flow.vlan, "size": wire.MAX_BYTES}
    least = wire.Flow(1, "", "", "", **own).headers + wire.TAG.size  # type: ignore[arg-type]
    if flow.size < least:
        tagged = "" if flow.vlan is None else " with a VLAN tag"
        yield "size", f"{flow.protocol} frames{tagged} take {least} bytes or more, not {flow.size}"
    if not socket:
        return
    never = "never reach the UDP socket: set `socket: false` (they then end at tc ingress)"
    if flow.protocol != "udp":
        yield "protocol", f"{flow.protocol} frames {never}"
    if flow.vlan is not None:
        yield "vlan", f"frames with a VLAN tag {never}"
    if flow.destination_port is not None:
        yield "destination_port", f"the socket has a port of its own, and others {never}"
