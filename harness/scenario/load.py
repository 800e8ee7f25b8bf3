"""From a YAML file to its scenarios, and back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import yaml
from pydantic import ValidationError

from harness.errors import ScenarioError
from harness.forms.document import Fault
from harness.forms.explain import explain
from harness.forms.load import Form, override
from harness.scenario.layers import Layers
from harness.scenario.matrix import MAX_RUNS, axes_of, expand_data
from harness.scenario.schema import STAND_INS, Scenario

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.forms.document import Document

NAME_CHARACTERS = 80
MARKS = frozenset({"extends", "entries", "traffic"})
"""Any of these at the top level makes a YAML file a scenario."""
SCENARIO: Form[Scenario] = Form(
    Scenario,
    "scenario",
    "a scenario is a mapping of keys such as entries, traffic and expect",
    ScenarioError,
    STAND_INS,
)


def load_scenarios(path: Path, overrides: Mapping[str, object] | None = None) -> list[Scenario]:
    """Read a scenario from a file, once for each combination of its matrix.

    Args:
        path: a YAML file. A scenario without a name is called after it.
        overrides: values for top-level keys, over those of the file and of its matrix; None leaves
            a key out.

    Raises:
        ScenarioError: see `harness.forms.load.Form.load`.
    """
    overrides = overrides or {}
    layers = Layers(path, SCENARIO.parse)
    document = cast("Document", layers)
    defaults = {"name": _name_of(path)}
    whole = SCENARIO.take(path, document, defaults, overrides)
    if whole.matrix is None:
        return [whole]
    axes = axes_of(whole.matrix, without=frozenset(overrides))
    runs = math.prod(map(len, axes.values()))
    if runs > MAX_RUNS:
        raise SCENARIO.refuse(path, [layers.blame(("matrix",), f"{runs} runs; {MAX_RUNS} at most")])
    data = override(defaults | layers.data, overrides)
    del data["matrix"]
    scenarios, faults = [], list[Fault]()
    for suffix, each in expand_data(data, axes):
        try:
            scenario = Scenario.model_validate({**each, "name": f"{data['name']}{suffix}"[-200:]})
            scenarios.append(scenario)
        except ValidationError as error:
            told = explain(Scenario, document, error.errors(include_url=False))
            faults += [fault._replace(what=f"{suffix}: {fault.what}") for fault in told]
    if faults:
        raise SCENARIO.refuse(path, faults)
    return scenarios


def load_scenario(path: Path, overrides: Mapping[str, object] | None = None) -> Scenario:
    """Read a scenario that has no matrix; as `load_scenarios`."""
    scenario, *more = load_scenarios(path, overrides)
    if more:
        raise ScenarioError(f"{path} is {len(more) + 1} scenarios: it has a matrix")
    return scenario


def is_scenario(path: Path) -> bool:
    """Tell whether a YAML file is a scenario by its top-level keys; what is no YAML may be one."""
    try:
        data: Any = SCENARIO.parse(path).data
    except ScenarioError:
        return not _is_list(path)
    return not MARKS.isdisjoint(data)


def _is_list(path: Path) -> bool:
    try:
        return isinstance(yaml.compose(path.read_text()), yaml.SequenceNode)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False


def dump_scenario(scenario: Scenario) -> str:
    """Return a scenario as YAML that `load_scenario` reads back."""
    return yaml.safe_dump(dump_data(scenario), sort_keys=False, allow_unicode=True)


def dump_data(scenario: Scenario) -> dict[str, Any]:
    """Return a scenario as data that makes it again."""
    without = set() if scenario.kernel else {"kernel"}
    return scenario.model_dump(exclude_none=True, exclude=without)


def _name_of(path: Path) -> str:
    printable = "".join(c if c.isprintable() else "-" for c in path.stem)
    return printable[:NAME_CHARACTERS] or "scenario"
