"""What is wrong with steps that take CPUs and NICs out, and plug them in again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.scenario.conflicts.found import no_nic
from harness.traffic.turns import Pace, take_turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.scenario.conflicts.found import Found
    from harness.scenario.parts import Step
    from harness.scenario.schema import Scenario

BACK = {"unplug": "plug", "link_down": "link_up", "remove_nic": ""}
"""Steps after which no frame reaches a NIC, and those that undo them."""
FORTH = {back: away for away, back in BACK.items() if back}


def check_absences(scenario: Scenario) -> Iterator[Found]:
    """Find steps on what is not there, and frames for a NIC that is away."""
    cpus_in: set[int] = set()
    away: dict[int, set[str]] = {}
    for number, step in enumerate(scenario.timeline):
        at = ("timeline", number)
        if step.do in ("plug", "unplug") and step.cpu is not None:
            yield from _check_cpu((*at, "cpu"), step, scenario, cpus_in)
        elif step.do in (*BACK, *FORTH) and step.nic is not None:
            if step.nic >= len(scenario.nics):
                yield (*at, "nic"), no_nic(step.nic, scenario)
            else:
                yield from _check_nic(at, number, scenario, away.setdefault(step.nic, set()))


def _check_cpu(
    at: tuple[str | int, ...], step: Step, scenario: Scenario, cpus_in: set[int]
) -> Iterator[Found]:
    cpu = step.cpu
    if cpu not in range(scenario.cpus, scenario.possible_cpus):
        yield at, f"CPU {cpu} is no spare one: `spare_cpus` says how many follow the others"
    elif (cpu in cpus_in) == (step.do == "plug"):
        yield at, f"CPU {cpu} is {'plugged in' if step.do == 'plug' else 'out'} already"
    (cpus_in.add if step.do == "plug" else cpus_in.discard)(cpu or 0)


def _check_nic(
    at: tuple[str | int, ...], number: int, scenario: Scenario, away: set[str]
) -> Iterator[Found]:
    step = scenario.timeline[number]
    if step.do in FORTH:
        if FORTH[step.do] not in away:
            yield (*at, "nic"), f"`{step.do}`: no `{FORTH[step.do]}` of NIC {step.nic} before"
        away.discard(FORTH[step.do])
        return
    if away & {step.do, "unplug", "remove_nic"}:
        yield (*at, "nic"), f"NIC {step.nic} is away already"
    away.add(step.do)
    if step.seconds is not None or step.after == "sent":
        how = "`after: rest` (`offered` is a known bug)"
        how = "`after: offered` or `rest`" if step.do == "link_down" else how
        yield (*at, "do"), f"frames may be on their way to it: say {how}"
    elif step.after == "offered" and step.do == "unplug":
        why = "frames that outlive their NIC are used after free (a known bug): say `after: rest`"
        yield (*at, "after"), why
    else:
        first, end = _position(step, scenario), _back(number, scenario)
        paces = [Pace(flow.frames, flow.rate, flow.burst) for flow in scenario.traffic]
        meanwhile = take_turns(paces, rate=scenario.rate).flows[first:end]
        if any(scenario.traffic[flow].nic == step.nic for flow in set(meanwhile)):
            yield (*at, "nic"), f"frames go to NIC {step.nic} while it is away"


def _back(number: int, scenario: Scenario) -> int:
    """Return how many frames have gone when a NIC is back."""
    step = scenario.timeline[number]
    for later in scenario.timeline[number + 1 :]:
        if later.do == BACK[step.do] and later.nic == step.nic:
            # steps by the clock come at a time of their own
            return _position(later, scenario) if later.seconds is None else scenario.frames
    return scenario.frames


def _position(step: Step, scenario: Scenario) -> int:
    return scenario.frames if step.at is None else step.at
