"""What is right key by key in a scenario and wrong together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.forms.model import Conflict
from harness.machine.topology import MAX_CPUS
from harness.scenario.absences import check_absences, no_nic
from harness.scenario.inside import check_injector
from harness.scenario.objects import find_fault, find_file_fault
from harness.scenario.words import MAX_FRAMES
from harness.traffic import frames as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.scenario.parts import Program, Step, Traffic
    from harness.scenario.schema import Scenario

ENTRY_KEYS = {"update": ("cpu", "qsize"), "replace": ("cpu", "qsize"), "delete": ("cpu",)}
STEP_KEYS = {
    **ENTRY_KEYS,
    **dict.fromkeys(("hold", "release", "offline", "online"), ("cpu",)),
    **dict.fromkeys(("detach", "close", "wait"), ()),
    **dict.fromkeys(("remove_nic", "link_down", "link_up"), ("nic",)),
}
"""The keys that each action needs; updates may have a program, actions on entries a map."""
PROGRAM_KINDS = ("verdicts", "to_cpu", "to_nic", "object")
FLOW_KEYS = ("size", "protocol", "source_port", "destination_port", "vlan")

ETHERNET, VLAN = 14, 4
"""Bytes of headers that are not of the MTU."""
ONE_BUFFER = 3508
"""Bytes of the longest frame that virtio-net has room for in a page beside what XDP needs."""

Found = tuple[tuple[str | int, ...], str]


def find_conflicts(scenario: Scenario) -> Iterator[Conflict]:
    """Find what is right key by key and wrong together."""
    checks = (
        (_check_entries, {"entries", "cpus", "spare_cpus", "steer"}),
        (_check_guest, {"nics", "offline", "cpus"}),
        (check_injector, {"injector", "nics", "traffic", "steer", "timeline", "cpus", "offline"}),
        (_check_nodes, {"nodes", "cpus", "memory_mib", "spare_cpus"}),
        (_check_lengths, {"traffic", "mtu", "frags", "steer", "nics"}),
        (_check_files, {"entries", "steer", "timeline", "traffic"}),
        (_check_programs, {"entries", "timeline", "nics"}),
        (_check_expectations, {"expect", "cpus", "spare_cpus", "socket"}),
        (_check_traffic, {"traffic", "socket", "nics", "rate"}),
        (_check_steps, {"timeline", "traffic", "entries"}),
        (check_absences, {"timeline", "traffic", "nics", "cpus", "spare_cpus"}),
        (_check_holds, {"timeline", "entries", "cpus"}),
        (_check_entry_steps, {"timeline", "entries"}),
    )
    for check, needs in checks:
        for at, why in check(scenario):
            yield Conflict(at, why, frozenset(needs))


def _check_entries(scenario: Scenario) -> Iterator[Found]:
    first: dict[tuple[int, int], int] = {}
    for number, entry in enumerate(scenario.entries):
        at, key = ("entries", number, "cpu"), (entry.map, entry.cpu)
        if entry.cpu >= scenario.possible_cpus:
            yield at, _beyond(entry.cpu, scenario)
        if key in first:
            of_map = f" of map {entry.map}" if entry.map else ""
            yield at, f"CPU {entry.cpu} has an entry{of_map} already, entries[{first[key]}]"
        first.setdefault(key, number)
    if not scenario.targets:
        why = "an empty cpumap and no `steer.to`: there is nowhere to steer frames to"
        yield ("entries",), why


def _check_guest(scenario: Scenario) -> Iterator[Found]:
    for number, nic in enumerate(scenario.nics):
        if nic.receive_on is not None and nic.receive_on >= scenario.cpus:
            yield ("nics", number, "receive_on"), _beyond(nic.receive_on, scenario)
        elif nic.receive_on is not None and nic.queues > 1:
            why = f"its {nic.queues} queues are received on as many CPUs: leave it out"
            yield ("nics", number, "receive_on"), why
        if nic.queues > scenario.cpus:
            why = f"there are only {scenario.cpus} CPUs, and each queue has one of its own"
            yield ("nics", number, "queues"), why
    for number, cpu in enumerate(scenario.offline):
        if cpu >= scenario.cpus:
            yield ("offline", number), _beyond(cpu, scenario)
        elif cpu == 0:
            yield ("offline", number), "CPU 0 cannot go offline"


def _check_nodes(scenario: Scenario) -> Iterator[Found]:
    if scenario.possible_cpus > MAX_CPUS:
        why = f"{scenario.possible_cpus} CPUs with `cpus`; a guest has {MAX_CPUS} at most"
        yield ("spare_cpus",), why
    elif scenario.spare_cpus and scenario.nodes > 1:
        yield ("spare_cpus",), "spare CPUs are of no NUMA node: leave out `nodes`"
    for key in ("cpus", "memory_mib"):
        if (whole := getattr(scenario, key)) % scenario.nodes:
            yield ("nodes",), f"{scenario.nodes} nodes cannot share `{key}: {whole}` equally"


def _check_lengths(scenario: Scenario) -> Iterator[Found]:
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


def _check_files(scenario: Scenario) -> Iterator[Found]:
    if scenario.steer.object and (why := find_fault(Path(scenario.steer.object), steers=True)):
        yield ("steer", "object"), why
    for at, program in _programs(scenario):
        if program.object:
            path, onward = Path(program.object), bool(program.onward)
            if why := find_fault(path, steers=False, redirects=onward):
                yield (*at, "object"), why
    for number, flow in enumerate(scenario.traffic):
        if flow.pcap and (why := find_file_fault(Path(flow.pcap))):
            yield ("traffic", number, "pcap"), why


def _programs(scenario: Scenario) -> Iterator[tuple[tuple[str | int, ...], Program]]:
    for top in ("entries", "timeline"):
        for number, part in enumerate(getattr(scenario, top)):
            if part.program:
                yield (top, number, "program"), part.program


def _check_programs(scenario: Scenario) -> Iterator[Found]:
    for at, program in _programs(scenario):
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


def _check_expectations(scenario: Scenario) -> Iterator[Found]:
    expect = scenario.expect
    for key in ("delivered", "dropped", "received", "shares"):
        counts = getattr(expect, key)
        for cpu in counts if isinstance(counts, dict) else ():
            if cpu >= scenario.possible_cpus:
                yield ("expect", key, cpu), _beyond(cpu, scenario)
    if expect.within and expect.shares is None:
        yield ("expect", "within"), "it says how far `shares` may be off: there are none"
    if expect.socket is not None and not scenario.socket:
        yield ("expect", "socket"), "there is no socket: `socket: false`"


def _check_traffic(scenario: Scenario) -> Iterator[Found]:
    paced = [flow.rate or flow.speed for flow in scenario.traffic]
    for number, flow in enumerate(scenario.traffic):
        at = ("traffic", number)
        check = _check_capture if flow.pcap else _check_flow
        for key, why in check(flow, socket=scenario.socket):
            yield (*at, key), why
        if flow.nic >= len(scenario.nics):
            yield (*at, "nic"), no_nic(flow.nic, scenario)
        key = "rate" if flow.rate else "speed"
        if paced[number] and scenario.rate:
            yield (*at, key), "either all flows together have a rate, or each its own"
        elif paced[number] and not all(paced):
            yield (
                (*at, key),
                "either all flows have a rate or none (a `speed` is one): others have none",
            )
    if scenario.frames > MAX_FRAMES:
        yield ("traffic",), f"{scenario.frames} frames in all; at most {MAX_FRAMES} are possible"


def _check_flow(flow: Traffic, *, socket: bool) -> Iterator[tuple[str, str]]:
    own = {"protocol": flow.protocol, "vlan": flow.vlan, "size": wire.JUMBO_BYTES}
    least = wire.Flow(1, "", "", "", **own).headers + wire.TAG.size  # type: ignore[arg-type]
    if flow.size < least:
        tagged = "" if flow.vlan is None else " with a VLAN tag"
        yield "size", f"{flow.protocol} frames{tagged} take {least} bytes or more, not {flow.size}"
    for key in ("speed", "loop"):
        if getattr(flow, key) != type(flow).model_fields[key].default:
            yield key, "it is for captures: there is no `pcap`"
    if not socket:
        return
    never = "never reach the UDP socket: set `socket: false` (they then end at tc ingress)"
    if flow.protocol != "udp":
        yield "protocol", f"{flow.protocol} frames {never}"
    if flow.vlan is not None:
        yield "vlan", f"frames with a VLAN tag {never}"
    if flow.destination_port is not None:
        yield "destination_port", f"the socket has a port of its own, and others {never}"


def _check_capture(flow: Traffic, *, socket: bool) -> Iterator[tuple[str, str]]:
    defaults = type(flow).model_fields
    for key in FLOW_KEYS:
        if getattr(flow, key) != defaults[key].default:
            yield key, "the frames of a pcap file have their own"
    for key in ("rate", "burst"):
        if flow.speed and getattr(flow, key) != defaults[key].default:
            yield key, "`speed` replays the timing of the capture: either it or this"
    if socket:
        why = "they never reach the UDP socket: set `socket: false` (they then end at tc ingress)"
        yield "pcap", f"the frames of a capture go where it says; {why}"


def _check_steps(scenario: Scenario) -> Iterator[Found]:
    last = 0
    chained = any(p.to_cpu is not None or p.onward for _, p in _programs(scenario))
    for number, step in enumerate(scenario.timeline):
        at = ("timeline", number)
        yield from _check_step_keys(at, step)
        if chained and step.after == "offered":
            why = "a frame that an entry hands on is offered more than once: say `after: rest`"
            yield (*at, "after"), why
        if step.seconds is not None:
            for key in ("at", "after"):
                if key in step.model_fields_set and getattr(step, key) not in (None, "sent"):
                    yield (*at, key), "either `seconds` or this"
            continue
        position = scenario.frames if step.at is None else step.at
        if position > scenario.frames:
            why = f"there are {scenario.frames} frames in all"
            yield (*at, "at"), why
        elif position < last:
            yield (*at, "at"), f"a step before comes after {last} frames: write them in order"
        last = max(last, position)
        if step.do in ("detach", "close"):
            if position < scenario.frames or step.after == "sent":
                why = (
                    f"`{step.do}` comes after all frames and `after: offered` or `rest`: what no "
                    "XDP program sees cannot be accounted for"
                )
                yield (*at, "do"), why
            if step.do == "close" and number + 1 < len(scenario.timeline):
                yield ("timeline", number + 1, "do"), "nothing can follow `close`"


def _check_step_keys(at: tuple[str | int, ...], step: Step) -> Iterator[Found]:
    if step.do in ("plug", "unplug"):
        needed: tuple[str, ...] = ("cpu",) if step.nic is None else ("nic",)
        if step.cpu is None and step.nic is None:
            yield (*at, "do"), f"`{step.do}` needs the key `cpu` or `nic`"
            return
    else:
        needed = STEP_KEYS[step.do]
    allowed = {*needed}
    if step.do in ENTRY_KEYS:
        allowed |= {"map"} if step.do == "delete" else {"map", "program"}
    for key in ("cpu", "qsize", "program", "map", "nic"):
        value = getattr(step, key)
        given = value is not None and (key != "map" or value)
        if key in needed and getattr(step, key) is None:
            yield (*at, "do"), f"`{step.do}` needs the key `{key}`"
        elif given and key not in allowed:
            yield (*at, key), f"`{step.do}` has no use for it"


def _check_holds(scenario: Scenario) -> Iterator[Found]:
    held: dict[int, int] = {}
    for number, step in enumerate(scenario.timeline):
        at = ("timeline", number)
        if step.after == "rest" and held:
            cpu = next(iter(held))
            yield (
                (*at, "after"),
                f"nothing comes to rest while CPU {cpu} is held: say `after: offered`",
            )
        if step.cpu is None:
            continue
        if step.do == "hold":
            if step.cpu >= scenario.cpus:
                yield (*at, "cpu"), _beyond(step.cpu, scenario)
            elif scenario.cpus == 1:
                yield (*at, "cpu"), "the guest needs another CPU to hold its only one"
            elif step.cpu in held:
                yield (*at, "cpu"), f"CPU {step.cpu} is held already, timeline[{held[step.cpu]}]"
            held[step.cpu] = number
        elif step.do == "release" and held.pop(step.cpu, None) is None:
            yield (*at, "cpu"), f"CPU {step.cpu} is not held here"
    for cpu, number in held.items():
        yield ("timeline", number, "cpu"), f"no step releases CPU {cpu}"


def _check_entry_steps(scenario: Scenario) -> Iterator[Found]:
    there = {(entry.map, entry.cpu) for entry in scenario.entries}
    for number, step in enumerate(scenario.timeline):
        if step.do == "replace" and (step.map, step.cpu) not in there and step.cpu is not None:
            why = f"CPU {step.cpu} has no entry to replace: say `update`"
            yield ("timeline", number, "cpu"), why
        if step.do in ENTRY_KEYS and step.cpu is not None and step.errno is None:
            gone = step.do == "delete" or step.qsize == 0
            (there.discard if gone else there.add)((step.map, step.cpu))


def _beyond(cpu: int, scenario: Scenario) -> str:
    last = scenario.possible_cpus - 1
    return f"there is no CPU {cpu}: the guest has {'CPU 0' if not last else f'CPUs 0 to {last}'}"
