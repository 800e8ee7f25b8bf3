"""What a scenario cannot ask of a machine that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.scenario.conflicts.found import Found
    from harness.scenario.schema import Scenario

KEYS = {
    "kernel": "a target runs the kernel that it has",
    "append": "a target has booted already",
    "memory_mib": "a target has the memory that it has",
    "nodes": "a target has the NUMA nodes that it has",
    "spare_cpus": "no CPU is plugged into a target",
    "offline": "the CPUs of a target stay online",
    "launcher": "a target has booted already",
    "ssh": "a target has an sshd already",
}
"""Keys that are for guests, and what they come up against on a target."""
STEPS = {
    "hold": "a target's CPUs are not ours to hold",
    "release": "a target's CPUs are not ours to hold",
    "offline": "the CPUs of a target stay online",
    "online": "the CPUs of a target stay online",
    "plug": "nothing is plugged into a target",
    "unplug": "nothing is taken out of a target",
    "remove_nic": "frames come by veth pairs there, which have no driver to take them from",
    "link_down": "frames come by veth pairs there, without a wire that QEMU could cut",
    "link_up": "frames come by veth pairs there, without a wire that QEMU could cut",
}
"""Steps that are for guests, likewise."""
INSTEAD = "leave it out, or run it in a guest, without `target`"


def check_target(scenario: Scenario) -> Iterator[Found]:
    """Find what the machine in `target` cannot do, or is not to."""
    if scenario.target is None:
        return
    for key, why in KEYS.items():
        if getattr(scenario, key) != type(scenario).model_fields[key].default:
            yield (key,), f"{why}: {INSTEAD}"
    if scenario.injector in ("socket", "tap"):
        yield ("injector",), "no wire leads to a target: say `veth` or `live`"
    for number, nic in enumerate(scenario.nics):
        if nic.queues > 1:
            yield ("nics", number, "queues"), "frames come by veth pairs there, with one queue each"
    for number, step in enumerate(scenario.timeline):
        if step.do in STEPS:
            yield ("timeline", number, "do"), f"{STEPS[step.do]}: {INSTEAD}"
