"""What is wrong with entries, the guest, programs and expectations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.machine.topology import MAX_CPUS
from harness.scenario.conflicts.found import beyond, no_nic, programs
from harness.scenario.objects import find_fault, find_file_fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.scenario.conflicts.found import Found
    from harness.scenario.schema import Scenario

PROGRAM_KINDS = ("verdicts", "to_cpu", "to_nic", "object")
ETHERNET, VLAN = 14, 4
"""Bytes of headers that are not of the MTU."""
ONE_BUFFER = 3508
"""Bytes of the longest frame that virtio-net has room for in a page beside what XDP needs."""


def check_entries(scenario: Scenario) -> Iterator[Found]:
    """Find entries of CPUs that are not there, and those made twice."""
    first: dict[tuple[int, int], int] = {}
    for number, entry in enumerate(scenario.entries):
        at, key = ("entries", number, "cpu"), (entry.map, entry.cpu)
        if entry.cpu >= scenario.possible_cpus:
            yield at, beyond(entry.cpu, scenario)
        if key in first:
            of_map = f" of map {entry.map}" if entry.map else ""
            yield at, f"CPU {entry.cpu} has an entry{of_map} already, entries[{first[key]}]"
        first.setdefault(key, number)
    if not scenario.targets:
        why = "an empty cpumap and no `steer.to`: there is nowhere to steer frames to"
        yield ("entries",), why


def check_guest(scenario: Scenario) -> Iterator[Found]:
    """Find NICs and offline CPUs that do not fit the guest."""
    for number, nic in enumerate(scenario.nics):
        if nic.receive_on is not None and nic.receive_on >= scenario.cpus:
            yield ("nics", number, "receive_on"), beyond(nic.receive_on, scenario)
        elif nic.receive_on is not None and nic.queues > 1:
            why = f"its {nic.queues} queues are received on as many CPUs: leave it out"
            yield ("nics", number, "receive_on"), why
        if nic.queues > scenario.cpus:
            why = f"there are only {scenario.cpus} CPUs, and each queue has one of its own"
            yield ("nics", number, "queues"), why
    for number, cpu in enumerate(scenario.offline):
        if cpu >= scenario.cpus:
            yield ("offline", number), beyond(cpu, scenario)
        elif cpu == 0:
            yield ("offline", number), "CPU 0 cannot go offline"


def check_nodes(scenario: Scenario) -> Iterator[Found]:
    """Find NUMA nodes that cannot share the guest equally."""
    if scenario.possible_cpus > MAX_CPUS:
        why = f"{scenario.possible_cpus} CPUs with `cpus`; a guest has {MAX_CPUS} at most"
        yield ("spare_cpus",), why
    elif scenario.spare_cpus and scenario.nodes > 1:
        yield ("spare_cpus",), "spare CPUs are of no NUMA node: leave out `nodes`"
    for key in ("cpus", "memory_mib"):
        if (whole := getattr(scenario, key)) % scenario.nodes:
            yield ("nodes",), f"{scenario.nodes} nodes cannot share `{key}: {whole}` equally"


def check_lengths(scenario: Scenario) -> Iterator[Found]:
    """Find frames that do not fit the MTU or one buffer."""
    for number, flow in enumerate(scenario.traffic):
        at = ("traffic", number, "size")
        least = flow.size - ETHERNET - (0 if flow.vlan is None else VLAN)
        native = flow.nic < len(scenario.nics) and scenario.modes[flow.nic] == "native"
        if least > scenario.mtu:
            yield at, f"too large for `mtu: {scenario.mtu}`: it takes {least} or more"
        elif native and flow.size > ONE_BUFFER and not scenario.frags:
            why = f"frames of more than {ONE_BUFFER} bytes lie in several buffers: `frags: true`"
            yield at, why
    if scenario.frags and scenario.steer.object is not None:
        yield ("frags",), "it is for the lab's own program; build yours with -DFRAGS instead"


def check_files(scenario: Scenario) -> Iterator[Found]:
    """Find objects and captures that cannot be read."""
    if scenario.steer.object and (why := find_fault(Path(scenario.steer.object), steers=True)):
        yield ("steer", "object"), why
    for at, program in programs(scenario):
        if program.object:
            path, onward = Path(program.object), bool(program.onward)
            if why := find_fault(path, steers=False, redirects=onward):
                yield (*at, "object"), why
    for number, flow in enumerate(scenario.traffic):
        if flow.pcap and (why := find_file_fault(Path(flow.pcap))):
            yield ("traffic", number, "pcap"), why


def check_programs(scenario: Scenario) -> Iterator[Found]:
    """Find programs of entries that are told wrongly."""
    for at, program in programs(scenario):
        kinds = [kind for kind in PROGRAM_KINDS if getattr(program, kind) is not None]
        if len(kinds) != 1:
            yield at, f"exactly one of {', '.join(PROGRAM_KINDS)} is needed"
        if program.to_map is not None and program.to_cpu is None and not program.onward:
            yield (*at, "to_map"), "it says which map `to_cpu` is of: name the CPU"
        for key in ("onward", "resizes"):
            if getattr(program, key) and program.object is None:
                yield (*at, key), "it tells of the program in `object`: there is none"
        if program.to_nic is not None and program.to_nic >= len(scenario.nics):
            yield (*at, "to_nic"), no_nic(program.to_nic, scenario)


def check_expectations(scenario: Scenario) -> Iterator[Found]:
    """Find expectations of what cannot be."""
    expect = scenario.expect
    for key in ("delivered", "dropped", "received", "shares"):
        counts = getattr(expect, key)
        for cpu in counts if isinstance(counts, dict) else ():
            if cpu >= scenario.possible_cpus:
                yield ("expect", key, cpu), beyond(cpu, scenario)
    if expect.within and expect.shares is None:
        yield ("expect", "within"), "it says how far `shares` may be off: there are none"
    if expect.socket is not None and not scenario.socket:
        yield ("expect", "socket"), "there is no socket: `socket: false`"
