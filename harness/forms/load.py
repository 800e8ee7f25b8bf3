"""From a YAML file to a value of its form, or to everything that is wrong with the file at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from harness.errors import UserError
from harness.forms.document import Document, Fault
from harness.forms.explain import explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

T = TypeVar("T")

MAX_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """One kind of file.

    Attributes:
        root: what is to be in it: a model, or a tuple of models.
        noun: what such a file is called.
        shape: what it looks like, in a sentence.
        error: what is raised for one that is none.
        stand_ins: values for required keys, so that the others can be checked while these are
            wrong.
        listed: the file is a list, not a mapping.
    """

    root: Any
    noun: str
    shape: str
    error: type[UserError] = UserError
    stand_ins: Mapping[str, Any] = field(default_factory=dict)
    listed: bool = False

    def load(
        self,
        path: Path,
        defaults: Mapping[str, object] | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> tuple[T, Document]:
        """Read a file of this form.

        Args:
            path: a YAML file.
            defaults: values for top-level keys that the file may lack.
            overrides: values for top-level keys, over those of the file; None leaves a key out.

        Returns:
            What is in it, and the document, which knows where each part stood.

        Raises:
            UserError: with one line for each thing that is wrong, `file:line:column: key: what`,
                in the order of the file.
        """
        document = self.parse(path)
        return self.take(path, document, defaults, overrides), document

    def take(
        self,
        path: Path,
        document: Document,
        defaults: Mapping[str, object] | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> T:
        """Return what is in a document that was parsed; as `load`."""
        data: Any = document.data
        if isinstance(data, dict):
            data = override(dict(defaults or {}) | data, overrides or {})
        try:
            value: T = self._validate(data)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            more = self._find_conflicts(data, errors) if isinstance(data, dict) else []
            faults = explain(self.root, document, [*errors, *more])
            raise self.refuse(path, [*document.faults, *faults]) from None
        if document.faults:
            raise self.refuse(path, document.faults)
        return value

    def parse(self, path: Path) -> Document:
        """Read a file as YAML of this form's outermost shape; as `load`."""
        text = self._read(path)
        try:
            document = Document(text)
        except yaml.YAMLError as error:
            raise self.refuse(path, [_syntax_fault(error)]) from None
        except RecursionError:
            fault = Fault(1, 1, "", f"nested too deeply to be a {self.noun}")
            raise self.refuse(path, [fault]) from None
        if document.data is None:
            raise self.refuse(path, [Fault(1, 1, "", f"the file is empty: {self.shape}")])
        if not isinstance(document.data, tuple if self.listed else dict):
            found = document.blame((), f"found {document.describe(())}; {self.shape}")
            raise self.refuse(path, [*document.faults, found])
        return document

    def _read(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except IsADirectoryError:
            files = sorted(each.name for each in path.glob("*.yaml"))
            remedy = f"name a file in it, like {path / files[0]}" if files else ""
            raise self.error(f"{path} is a directory, not a {self.noun}", remedy=remedy) from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise self.error(f"cannot read the {self.noun} {path}: {why}") from None
        if len(content) > MAX_BYTES:
            fault = Fault(1, 1, "", f"more than {MAX_BYTES >> 10} KiB: no {self.noun}")
            raise self.refuse(path, [fault])
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = content[: error.start]
            line, column = _place(before.decode("utf-8", "replace"))
            what = f"the byte 0x{content[error.start]:02x} is no UTF-8: is this a text file?"
            raise self.refuse(path, [Fault(line, column, "", what)]) from None
        odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
        if odd:
            what = f"the character U+{ord(odd[0]):04X} has no place in YAML: is this a text file?"
            raise self.refuse(path, [Fault(*_place(text[: odd.start()]), "", what)])
        return text

    def _validate(self, data: Any) -> Any:
        return TypeAdapter(self.root).validate_python(data)

    def _find_conflicts(self, data: dict[str, Any], errors: list[Any]) -> list[Any]:
        """Return the conflicts between those keys that are right by themselves."""
        wrong = {error["loc"][0] for error in errors if error["loc"]}
        if not wrong:
            return []  # then the conflicts are what pydantic told
        stand_ins = {key: value for key, value in self.stand_ins.items() if key in wrong}
        rest = {key: value for key, value in data.items() if key not in wrong} | stand_ins
        try:
            self._validate(rest)
        except ValidationError as error:
            found = [e for e in error.errors(include_url=False) if e["type"] == "conflict"]
            for each in found:
                told = each["ctx"]["conflicts"]
                each["ctx"]["conflicts"] = [c for c in told if not c.needs & wrong]
            return found
        return []

    def refuse(self, path: Path, faults: Iterable[Fault]) -> UserError:
        """Return the error that tells the faults of a file, and of files that it is made of."""
        ordered = sorted(set(faults), key=lambda fault: (fault.file, fault))
        return self.error("\n".join(f"{fault.file or path}:{fault}" for fault in ordered))


def override(data: Mapping[str, Any], overrides: Mapping[str, object]) -> dict[str, Any]:
    """Return data with other values for some keys, without those that are None."""
    merged = dict(data) | dict(overrides)
    return {key: merged[key] for key in merged if overrides.get(key, ...) is not None}


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


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
