"""What is wrong with flows: their keys among each other, rates, and frames in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.scenario.conflicts.found import no_nic
from harness.scenario.words import MAX_FRAMES
from harness.traffic import frames as wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.scenario.conflicts.found import Found
    from harness.scenario.parts import Traffic
    from harness.scenario.schema import Scenario

FLOW_KEYS = ("size", "protocol", "source_port", "destination_port", "vlan")


def check_traffic(scenario: Scenario) -> Iterator[Found]:
    """Find flows that do not fit their NIC, the socket or each other."""
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
