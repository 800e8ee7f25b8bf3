"""From a YAML file to a scenario, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from harness.errors import ScenarioError
from harness.forms.load import Form
from harness.scenario.schema import STAND_INS, Scenario

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME_CHARACTERS = 80
SCENARIO: Form[Scenario] = Form(
    Scenario,
    "scenario",
    "a scenario is a mapping of keys such as entries, traffic and expect",
    ScenarioError,
    STAND_INS,
)


def load_scenario(path: Path, overrides: Mapping[str, object] | None = None) -> Scenario:
    """Read a scenario from a file.

    Args:
        path: a YAML file. A scenario without a name is called after it.
        overrides: values for top-level keys, over those of the file.

    Raises:
        ScenarioError: see `harness.forms.load.Form.load`.
    """
    return SCENARIO.load(path, {"name": _name_of(path)}, overrides)[0]


def dump_scenario(scenario: Scenario) -> str:
    """Return a scenario as YAML that `load_scenario` reads back."""
    content = scenario.model_dump(
        exclude_none=True, exclude=set() if scenario.kernel else {"kernel"}
    )
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _name_of(path: Path) -> str:
    printable = "".join(c if c.isprintable() else "-" for c in path.stem)
    return printable[:NAME_CHARACTERS] or "scenario"
