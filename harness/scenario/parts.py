"""The parts of a scenario: models of what stands below its top-level keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from harness.forms.model import Line, Model, Spec, Words
from harness.machine.topology import MAX_CPUS
from harness.scenario.words import (
    MAX_FRAMES,
    Amount,
    Amounts,
    Cpus,
    Errno,
    FilePath,
    Key,
    MapNumber,
    NicNumber,
    Port,
    Rate,
    Share,
)
from harness.traffic import frames as wire

MAX_QSIZE = 16384
"""cpu_map_update_elem refuses more (EOVERFLOW)."""
MAX_TARGETS = 1024
"""Room for targets in guest/bpf/steer.bpf.c."""
MAX_VERDICTS = 64
"""Room for verdicts in guest/bpf/entry_verdict.bpf.c."""
MAX_U32 = (1 << 32) - 1
MAX_SEED = (1 << 64) - 1
MAX_APPEND = 1024
"""Characters; the whole of an x86 kernel's command line has 2048."""

Mode = Literal["native", "generic"]
By = Literal["frame", "flow", "port", "hash"]
Verdict = Literal["pass", "drop", "aborted", "tx"]


def listed(value: object) -> object:
    """Take one text for a list of it."""
    return (value,) if isinstance(value, str) else value


def _as_verdicts(value: object) -> object:
    return {"verdicts": listed(value)} if isinstance(value, str | tuple | list) else value


class Nic(Model):
    """A NIC of the guest's, with an XDP program of its own."""

    mode: Mode | None = Field(default=None, description="its XDP hook; by default `steer.mode`")
    receive_on: Key | None = Field(
        default=None, description="the CPU that its interrupt goes to: the producer"
    )
    queues: Annotated[int, Field(ge=1, le=MAX_CPUS)] = Field(
        default=1,
        description="receive queues, each with an interrupt on a CPU of its own; flows are spread "
        "over them by their hash (a tap, which takes user namespaces)",
    )


class Steer(Model):
    """How the XDP program picks the CPU of a frame."""

    by: By = Field(
        default="frame", description="what picks a frame's target: its number, flow, port or hash"
    )
    object: FilePath | None = Field(
        default=None, description="your own BPF object file, instead of `by` (see the README)"
    )
    to: Annotated[tuple[Key, ...], Field(min_length=1, max_length=MAX_TARGETS)] | None = Field(
        default=None, description="the CPUs, taken in turn; by default those of the entries"
    )
    mode: Mode = Field(default="native", description="the XDP hook")
    miss: Verdict = Field(
        default="aborted",
        description="the action for a CPU without an entry (bpf_redirect_map's flags)",
    )


class Program(Model):
    """A program in an entry; exactly one of `verdicts`, `to_cpu`, `to_nic` and `object`."""

    verdicts: (
        Annotated[tuple[Verdict, ...], Field(min_length=1, max_length=MAX_VERDICTS)] | None
    ) = Field(default=None, description="its answers in turn, by frame number")
    to_cpu: Key | None = Field(default=None, description="redirect to this CPU's entry")
    to_map: MapNumber | None = Field(
        default=None, description="the map of `to_cpu`; by default the entry's own"
    )
    to_nic: NicNumber | None = Field(default=None, description="send out by this NIC (a devmap)")
    object: FilePath | None = Field(default=None, description="your own BPF object file")
    onward: tuple[Key, ...] = Field(
        default=(), description="the CPUs that the object's program redirects to"
    )
    resizes: bool = Field(
        default=False, description="whether the object's program changes the length of frames"
    )


Programmed = Annotated[
    Program,
    BeforeValidator(_as_verdicts, json_schema_input_type=Verdict | list[Verdict] | Program),
    Words(
        "pass, drop, aborted, tx, a list of these to be taken in turn, or a mapping with the keys "
        + ", ".join(Program.model_fields)
    ),
]


class Entry(Model):
    """An entry of a cpumap."""

    cpu: Key = Field(description="its key: the CPU that its kthread is bound to")
    qsize: int = Field(ge=1, le=MAX_QSIZE, description="frames that its ring holds")
    map: MapNumber = Field(default=0, description="number of its map; NICs take them in turn")
    program: Programmed | None = Field(default=None, description="what its kthread runs on frames")


class Traffic(Model):
    """A flow of equal frames, or a capture; several are interleaved."""

    frames: int = Field(
        ge=1, le=MAX_FRAMES, description="how many; of a pcap file, that many at most"
    )
    size: int = Field(
        default=64,
        ge=wire.MIN_BYTES,
        le=wire.JUMBO_BYTES,
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
    pcap: FilePath | None = Field(
        default=None,
        description="a capture to take the frames from; the first 8 bytes of their payload are "
        "overwritten with their number",
    )
    speed: Annotated[float, Field(ge=0.001, le=1000)] | None = Field(
        default=None,
        description="replay the capture with its own timing, so many times as fast; without it, "
        "times are not heeded",
    )
    loop: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = Field(
        default=1, description="play the capture so many times, `frames` frames in all at most"
    )
    nic: NicNumber = Field(default=0, description="number of the NIC that it goes to")
    rate: Rate | None = Field(default=None, description="frames per second of this flow")
    burst: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = Field(
        default=1,
        description="frames that go back to back; with a rate in such bunches, without one the "
        "next waits until all is at rest",
    )


class Step(Model):
    """An action while traffic flows."""

    do: Literal[
        "update",
        "replace",
        "delete",
        "hold",
        "release",
        "offline",
        "online",
        "detach",
        "close",
        "remove_nic",
        "plug",
        "unplug",
        "link_down",
        "link_up",
        "wait",
    ] = Field(description="the action")
    at: Annotated[int, Field(ge=0, le=MAX_FRAMES)] | None = Field(
        default=None,
        description="after so many frames, 0 for before the first; all, if it is left out",
    )
    after: Literal["sent", "offered", "rest"] = Field(
        default="sent",
        description="what must have become of those frames: sent (those up to the next step "
        "follow meanwhile), offered to a ring, or at rest (more wait)",
    )
    seconds: Annotated[float, Field(ge=0, le=600)] | None = Field(
        default=None, description="seconds after the first frame, instead of `at` and `after`"
    )
    cpu: Annotated[int, Field(ge=0, le=MAX_U32)] | None = Field(
        default=None, description="the CPU, or the entry's key"
    )
    qsize: Annotated[int, Field(ge=0, le=MAX_U32)] | None = Field(
        default=None, description="of the new entry; 0 deletes it"
    )
    program: Programmed | None = Field(default=None, description="of the new entry")
    map: MapNumber = Field(default=0, description="number of the map")
    nic: NicNumber | None = Field(default=None, description="number of the NIC")
    errno: Errno | None = Field(
        default=None, description="what it must fail with; it must succeed if that is left out"
    )


class Expect(Model):
    """What the books must say; whatever is left out may be anything that balances."""

    delivered: Amounts | None = Field(default=None, description="frames that reach the stack")
    dropped: Amounts | None = Field(default=None, description="frames that a full ring refuses")
    received: Amounts | None = Field(
        default=None, description="frames that the XDP programs see, by the CPU that they run on"
    )
    shares: Annotated[dict[Key, Share], Field(min_length=1)] | None = Field(
        default=None, description="each CPU's share of what is delivered, like {2: 0.25}"
    )
    within: Share = Field(default=0.0, description="how far a share may be off, like 0.05")
    aborted: Amount | None = Field(default=None, description="frames with the verdict XDP_ABORTED")
    passed: Amount | None = Field(default=None, description="frames with the verdict XDP_PASS")
    prog_pass: Amount | None = Field(default=None, description="passed by entries' programs")
    prog_drop: Amount | None = Field(default=None, description="dropped by entries' programs")
    prog_redirect: Amount | None = Field(
        default=None, description="redirected by entries' programs"
    )
    devices: Amount | None = Field(
        default=None, description="frames given to a NIC for transmission"
    )
    socket: Amount | None = Field(default=None, description="frames that the UDP socket received")
    skbs: Amount | None = Field(
        default=None, description="packets that reach the stack; GRO makes one of several frames"
    )
    kthreads: Annotated[int, Field(ge=0, le=1024)] | None = Field(
        default=None, description="cpumap kthreads at the end, before the map is closed"
    )
    in_order: bool = Field(
        default=False,
        description="the frames of a flow reach a CPU in order even if its entry was replaced",
    )


class Matrix(Model):
    """Values to run the scenario with, each with each."""

    kernel: tuple[Spec, ...] = Field(default=(), min_length=1, description="instead of `kernel`")
    cpus: tuple[Cpus, ...] = Field(default=(), min_length=1, description="instead of `cpus`")
    qsize: tuple[Annotated[int, Field(ge=1, le=MAX_QSIZE)], ...] = Field(
        default=(), min_length=1, description="instead of every entry's `qsize`"
    )
    mode: tuple[Mode, ...] = Field(default=(), min_length=1, description="instead of `steer.mode`")
    by: tuple[By, ...] = Field(default=(), min_length=1, description="instead of `steer.by`")
    rate: tuple[Rate, ...] = Field(default=(), min_length=1, description="instead of `rate`")
    seed: tuple[Annotated[int, Field(ge=0, le=MAX_SEED)], ...] = Field(
        default=(), min_length=1, description="instead of `seed`"
    )
    append: tuple[Annotated[Line, Field(max_length=MAX_APPEND)], ...] = Field(
        default=(), min_length=1, description="instead of `append`"
    )
