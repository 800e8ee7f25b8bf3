"""From a YAML file to a scenario, or to everything that is wrong with the file at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from harness.errors import ScenarioError
from harness.scenario.document import Document, Fault
from harness.scenario.explain import explain
from harness.scenario.schema import STAND_INS, Scenario

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_BYTES = 256 << 10
NAME_CHARACTERS = 80
SHAPE = "a scenario is a mapping of keys such as entries, traffic and expect"


def load_scenario(path: Path, overrides: Mapping[str, object] | None = None) -> Scenario:
    """Read a scenario from a file.

    Args:
        path: a YAML file. A scenario without a name is called after it.
        overrides: values for top-level keys, over those of the file.

    Raises:
        ScenarioError: with one line for each thing that is wrong, `file:line:column: key: what`,
            in the order of the file.
    """
    text = _read(path)
    try:
        document = Document(text)
    except yaml.YAMLError as error:
        raise _refusal(path, [_syntax_fault(error)]) from None
    except RecursionError:
        raise _refusal(path, [Fault(1, 1, "", "nested too deeply to be a scenario")]) from None
    if document.data is None:
        raise _refusal(path, [Fault(1, 1, "", f"the file is empty: {SHAPE}")])
    if not isinstance(document.data, dict):
        found = document.describe(())
        raise _refusal(path, [*document.faults, document.blame((), f"found {found}; {SHAPE}")])
    data = {"name": _name_of(path)} | document.data | dict(overrides or {})
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        faults = explain(document, [*errors, *_find_conflicts(data, errors)])
        raise _refusal(path, [*document.faults, *faults]) from None
    if document.faults:
        raise _refusal(path, document.faults)
    return scenario


def dump_scenario(scenario: Scenario) -> str:
    """Return a scenario as YAML that `load_scenario` reads back."""
    content = scenario.model_dump(
        exclude_none=True, exclude=set() if scenario.kernel else {"kernel"}
    )
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        files = sorted(each.name for each in path.glob("*.yaml"))
        remedy = f"name a file in it, like {path / files[0]}" if files else ""
        raise ScenarioError(f"{path} is a directory, not a scenario", remedy=remedy) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ScenarioError(f"cannot read the scenario {path}: {why}") from None
    if len(content) > MAX_BYTES:
        raise _refusal(path, [Fault(1, 1, "", f"more than {MAX_BYTES >> 10} KiB: no scenario")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = _place(before.decode("utf-8", "replace"))
        what = f"the byte 0x{content[error.start]:02x} is no UTF-8: is this a text file?"
        raise _refusal(path, [Fault(line, column, "", what)]) from None
    odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if odd:
        what = f"the character U+{ord(odd[0]):04X} has no place in YAML: is this a text file?"
        raise _refusal(path, [Fault(*_place(text[: odd.start()]), "", what)])
    return text


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _name_of(path: Path) -> str:
    printable = "".join(c if c.isprintable() else "-" for c in path.stem)
    return printable[:NAME_CHARACTERS] or "scenario"


def _syntax_fault(error: yaml.YAMLError) -> Fault:
    if not isinstance(error, yaml.MarkedYAMLError):
        return Fault(1, 1, "", f"no YAML: {error}")
    mark = error.problem_mark or error.context_mark
    what = f"no YAML: {error.problem or error.context}"
    if error.problem and r"'\t'" in error.problem:
        what = "a tab: YAML wants spaces"
    elif error.context and error.problem:
        what += f" {error.context}"
    return Fault(mark.line + 1, mark.column + 1, "", what) if mark else Fault(1, 1, "", what)


def _find_conflicts(data: dict[str, Any], errors: list[Any]) -> list[Any]:
    """Return the conflicts between those keys that are right by themselves."""
    wrong = {error["loc"][0] for error in errors if error["loc"]}
    if not wrong:
        return []  # then the conflicts are what pydantic told
    stand_ins = {key: value for key, value in STAND_INS.items() if key in wrong}
    rest = {key: value for key, value in data.items() if key not in wrong} | stand_ins
    try:
        Scenario.model_validate(rest)
    except ValidationError as error:
        found = error.errors(include_url=False)
        for each in found:
            told = each["ctx"]["conflicts"]
            each["ctx"]["conflicts"] = [c for c in told if not c.needs & wrong]
        return found
    return []


def _refusal(path: Path, faults: list[Fault]) -> ScenarioError:
    lines = [f"{path}:{fault}" for fault in sorted(set(faults))]
    return ScenarioError("\n".join(lines))
