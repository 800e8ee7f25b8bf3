"""A run that was kept, to be done again, and what has changed since."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from harness.errors import ScenarioError
from harness.report.record import CpuRecord
from harness.scenario.recipe import list_recipe
from harness.scenario.results import FORMAT
from harness.scenario.schema import Scenario
from harness.trace.latency import Waits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from harness.scenario.runner import Outcome

MAX_BYTES = 16 << 20
SHOWN = 12
"""Characters of a digest."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a run to do it again.

    Attributes:
        scenario: as it was expanded.
        verdict: how it ended.
        recipe: what it was made from.
        ledger: its accounts.
        reasons: why it did not pass.
        per_cpu: its counts by destination CPU.
        waits: how long frames waited in rings, by CPU.
    """

    scenario: Scenario
    verdict: str
    recipe: Mapping[str, Any]
    ledger: Mapping[str, Any]
    reasons: tuple[str, ...] = ()
    per_cpu: tuple[CpuRecord, ...] = ()
    waits: Mapping[int, Waits] = field(default_factory=dict)


def read_run(path: Path) -> Kept:
    """Read a run's run.json.

    Args:
        path: it, or the directory of the run's results.

    Raises:
        ScenarioError: there is none, or it is of a newer version.
    """
    file = path / "run.json" if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            told = json.loads(opened.read(MAX_BYTES))
    except OSError as error:
        raise ScenarioError(
            f"cannot read the run {file}: {error.strerror}",
            remedy="name a directory of results, as `cpumap-lab run` prints it",
        ) from None
    except (ValueError, RecursionError):
        raise ScenarioError(f"{file} is no run.json of cpumap-lab") from None
    if not isinstance(told, dict) or not isinstance(told.get("format"), int):
        raise ScenarioError(f"{file} is no run.json of cpumap-lab, or older than `rerun`")
    if told["format"] > FORMAT:
        raise ScenarioError(
            f"{file} was written by a newer cpumap-lab (format {told['format']}, not {FORMAT})",
            remedy="repeat it with that one",
        )
    try:
        scenario = Scenario.model_validate(_revive(told["scenario"]))
        recipe, ledger = told["recipe"] or {}, told["ledger"] or {}
        if not isinstance(recipe, dict) or not isinstance(ledger, dict):
            raise TypeError
        kept = Kept(scenario, str(told["verdict"]), recipe, ledger)
    except ValidationError as error:
        each = error.errors(include_url=False)[0]
        raise ScenarioError(
            f"{file}: its scenario is none that this cpumap-lab takes: {_tell(each)}"
        ) from None
    except (KeyError, TypeError):
        raise ScenarioError(f"{file} is no whole run.json of cpumap-lab") from None
    try:
        recorded = {
            name: kind.validate_python(told[key])
            for name, (key, kind) in _RECORDED.items()
            if key in told
        }
        return replace(kept, **recorded)
    except ValidationError:
        raise ScenarioError(f"{file} is no whole run.json of cpumap-lab") from None


def differences(before: Kept, now: Outcome) -> Iterator[str]:
    """Yield what is not as it was: what the run was made from, and what came of it."""
    old, new = dict(list_recipe(before.recipe)), dict(list_recipe(now.recipe))
    changed = [what for what in old if old[what] != new.get(what)]
    for what in changed:
        yield f"changed: {what} was {shorten(old[what])}, is {shorten(new.get(what))}"
    if not changed:
        yield f"unchanged: {', '.join(old) or 'nothing is told of what it was made from'}"
    if before.verdict != now.record.verdict.value:
        yield f"changed: verdict was {before.verdict}, is {now.record.verdict.value}"
    ledger = now.record.ledger or {}
    for account in sorted(before.ledger.keys() | ledger.keys()):
        was, is_ = before.ledger.get(account), ledger.get(account)
        if was != is_:
            yield f"changed: {account} was {was}, is {is_}"


_RECORDED: Mapping[str, tuple[str, TypeAdapter[Any]]] = {
    "reasons": ("reasons", TypeAdapter(tuple[str, ...])),
    "per_cpu": ("per_cpu", TypeAdapter(tuple[CpuRecord, ...])),
    "waits": ("wait_us", TypeAdapter(dict[int, Waits])),
}
"""Fields of `Kept` that run.json has beyond what a run is done again from: key and type."""


def _revive(data: Any) -> Any:
    """Return what JSON made of a scenario's data as it was: keys of mappings may be numbers."""
    if isinstance(data, dict):
        keys = {key: int(key) if key.isdecimal() and len(key) < 10 else key for key in data}
        return {keys[key]: _revive(value) for key, value in data.items()}
    return tuple(map(_revive, data)) if isinstance(data, list) else data


def shorten(value: object) -> str:
    """Return a value as text, a digest by its first characters."""
    text = str(value)
    is_digest = len(text) == 64 and not set(text) - set("0123456789abcdef")
    return text[:SHOWN] if is_digest else text


def _tell(error: Any) -> str:
    if error["type"] == "conflict":
        conflict = error["ctx"]["conflicts"][0]
        return f"{'.'.join(map(str, conflict.at))}: {conflict.why}"
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
