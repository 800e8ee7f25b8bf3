"""What is wrong with a timeline: its keys, its order, CPUs held and never released."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.scenario.conflicts.found import beyond, programs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.scenario.conflicts.found import Found
    from harness.scenario.parts import Step
    from harness.scenario.schema import Scenario

ENTRY_KEYS = {"update": ("cpu", "qsize"), "replace": ("cpu", "qsize"), "delete": ("cpu",)}
STEP_KEYS = {
    **ENTRY_KEYS,
    **dict.fromkeys(("hold", "release", "offline", "online"), ("cpu",)),
    **dict.fromkeys(("detach", "close", "wait"), ()),
    **dict.fromkeys(("remove_nic", "link_down", "link_up"), ("nic",)),
}
"""The keys that each action needs; updates may have a program, actions on entries a map."""


def check_steps(scenario: Scenario) -> Iterator[Found]:
    """Find steps with the wrong keys or in the wrong order."""
    last = 0
    chained = any(p.to_cpu is not None or p.onward for _, p in programs(scenario))
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


def check_holds(scenario: Scenario) -> Iterator[Found]:
    """Find CPUs held twice, released unheld, and never released."""
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
                yield (*at, "cpu"), beyond(step.cpu, scenario)
            elif scenario.cpus == 1:
                yield (*at, "cpu"), "the guest needs another CPU to hold its only one"
            elif step.cpu in held:
                yield (*at, "cpu"), f"CPU {step.cpu} is held already, timeline[{held[step.cpu]}]"
            held[step.cpu] = number
        elif step.do == "release" and held.pop(step.cpu, None) is None:
            yield (*at, "cpu"), f"CPU {step.cpu} is not held here"
    for cpu, number in held.items():
        yield ("timeline", number, "cpu"), f"no step releases CPU {cpu}"


def check_entry_steps(scenario: Scenario) -> Iterator[Found]:
    """Find entries replaced that are not there."""
    there = {(entry.map, entry.cpu) for entry in scenario.entries}
    for number, step in enumerate(scenario.timeline):
        if step.do == "replace" and (step.map, step.cpu) not in there and step.cpu is not None:
            why = f"CPU {step.cpu} has no entry to replace: say `update`"
            yield ("timeline", number, "cpu"), why
        if step.do in ENTRY_KEYS and step.cpu is not None and step.errno is None:
            gone = step.do == "delete" or step.qsize == 0
            (there.discard if gone else there.add)((step.map, step.cpu))
