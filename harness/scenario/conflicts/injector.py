"""What does not go together with an injector inside the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.traffic.frames import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.scenario.conflicts.found import Found
    from harness.scenario.schema import Scenario


def check_injector(scenario: Scenario) -> Iterator[Found]:
    """Find what the injector cannot do."""
    if scenario.injector not in ("auto", "tap"):
        for number, nic in enumerate(scenario.nics):
            if nic.queues > 1:
                why = f"`injector: {scenario.injector}` has one queue: say `tap`, or leave it out"
                yield ("nics", number, "queues"), why
    if scenario.injector == "live":
        yield from _check_live(scenario)
    if scenario.injector in ("live", "veth"):
        yield from _check_cpus(scenario)
        for number, step in enumerate(scenario.timeline):
            if step.nic is not None:
                why = f"`injector: {scenario.injector}` sends past the NICs that QEMU has"
                yield ("timeline", number, "nic"), why


def _check_live(scenario: Scenario) -> Iterator[Found]:
    instead = "live frames are UDP without a VLAN tag: say `injector: veth`"
    for number, flow in enumerate(scenario.traffic):
        at = ("traffic", number)
        if flow.protocol != "udp":
            yield (*at, "protocol"), instead
        if flow.vlan is not None:
            yield (*at, "vlan"), instead
        if flow.pcap is not None:
            yield (*at, "pcap"), instead
        if flow.size > MAX_BYTES:
            yield (*at, "size"), f"live frames have {MAX_BYTES} bytes at most"
    if scenario.steer.object is not None:
        yield ("steer", "object"), "the lab's own program numbers live frames: say `injector: veth`"
    for number, mode in enumerate(scenario.modes):
        if mode != "native":
            where = ("nics", number, "mode") if scenario.nics[number].mode else ("steer", "mode")
            yield where, f"live frames know no {mode} mode: say `injector: veth`"


def _check_cpus(scenario: Scenario) -> Iterator[Found]:
    if not scenario.undisturbed:
        why = "each CPU is held or goes offline, and none is left where frames can be put in"
        yield ("injector",), why
    for number, nic in enumerate(scenario.nics):
        if nic.receive_on in range(scenario.cpus) and nic.receive_on not in scenario.undisturbed:
            why = f"CPU {nic.receive_on} is held or goes offline: no frames can be put in there"
            yield ("nics", number, "receive_on"), why
