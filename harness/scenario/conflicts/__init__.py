"""What is right key by key in a scenario and wrong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.forms.model import Conflict
from harness.scenario.conflicts import parts, timeline
from harness.scenario.conflicts.absences import check_absences
from harness.scenario.conflicts.injector import check_injector
from harness.scenario.conflicts.target import KEYS, check_target
from harness.scenario.conflicts.traffic import check_traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.scenario.schema import Scenario


def find_conflicts(scenario: Scenario) -> Iterator[Conflict]:
    """Find what is right key by key and wrong together."""
    checks = (
        (parts.check_entries, {"entries", "cpus", "spare_cpus", "steer"}),
        (parts.check_guest, {"nics", "offline", "cpus"}),
        (check_injector, {"injector", "nics", "traffic", "steer", "timeline", "cpus", "offline"}),
        (check_target, {"target", "injector", "nics", "timeline", *KEYS}),
        (parts.check_nodes, {"nodes", "cpus", "memory_mib", "spare_cpus"}),
        (parts.check_lengths, {"traffic", "mtu", "frags", "steer", "nics"}),
        (parts.check_files, {"entries", "steer", "timeline", "traffic"}),
        (parts.check_programs, {"entries", "timeline", "nics"}),
        (parts.check_expectations, {"expect", "cpus", "spare_cpus", "socket"}),
        (check_traffic, {"traffic", "socket", "nics", "rate"}),
        (timeline.check_steps, {"timeline", "traffic", "entries"}),
        (check_absences, {"timeline", "traffic", "nics", "cpus", "spare_cpus"}),
        (timeline.check_holds, {"timeline", "entries", "cpus"}),
        (timeline.check_entry_steps, {"timeline", "entries"}),
    )
    for check, needs in checks:
        for at, why in check(scenario):
            yield Conflict(at, why, frozenset(needs))
