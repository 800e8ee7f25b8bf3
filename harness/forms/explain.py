"""What pydantic holds against a file, in words for who wrote it: found, allowed, nearest."""

from __future__ import annotations

import difflib
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.forms.document import BROKEN, show_path
from harness.forms.model import Conflict, Words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic_core import ErrorDetails

    from harness.forms.document import Document, Fault, Location

_KEY = "[key]"
"""pydantic's last step to a key that is wrong itself."""


def explain(root: Any, document: Document, errors: Sequence[ErrorDetails]) -> Iterator[Fault]:
    """Turn what pydantic found in a document's data into faults with their places.

    Args:
        root: the type that the data was to be.
        document: the data and where it stood.
        errors: what pydantic found.
    """
    return _Explainer(root, document).explain(errors)


class _Explainer:
    def __init__(self, root: Any, document: Document) -> None:
        self._root = root
        self._document = document

    def explain(self, errors: Sequence[ErrorDetails]) -> Iterator[Fault]:
        unknown = {_plain(e["loc"]): e for e in errors if e["type"] == "extra_forbidden"}
        renamed = {(*at[:-1], _nearest(str(at[-1]), self._keys(at[:-1]))) for at in unknown}
        for error in errors:
            at = _plain(error["loc"])
            kind = error["type"]
            if kind == "conflict":
                for conflict in error["ctx"]["conflicts"]:
                    yield self._explain_conflict(conflict)
            elif kind in ("extra_forbidden", "invalid_key"):
                yield self._explain_unknown(at)
            elif kind == "missing":
                if at not in renamed:  # the misspelt key is told already
                    what = f"missing; it is {self._meaning(at)}: {_describe(self._type_at(at))}"
                    yield self._document.blame(at[:-1], what)._replace(path=show_path(at))
            elif error["input"] is not BROKEN and not _is_echo(error):
                yield self._explain_value(error, at)

    def _explain_conflict(self, conflict: Conflict) -> Fault:
        number = conflict.at[-1] if isinstance(conflict.at[-1], int) else None
        return self._document.blame(conflict.at, conflict.why, key=number is not None)

    def _explain_unknown(self, at: Location) -> Fault:
        known, key = self._keys(at[:-1]), str(at[-1])
        hints = ["unknown key"]
        if home := self._home(key):
            hints.append(f"it belongs {home}")
        if nearest := _nearest(key, known):
            hints.append(f"{'or ' if home else ''}did you mean `{nearest}`?")
        what = f"{'; '.join(hints)} (known here: {', '.join(known)})"
        return self._document.blame(at, what, key=True)

    def _explain_value(self, error: ErrorDetails, at: Location) -> Fault:
        kind = self._type_at(at)
        if error["loc"] and error["loc"][-1] == _KEY:
            found = f"found the key `{at[-1]}`"
            key, _ = _mapping(self._type_at(at[:-1]))
            return self._document.blame(at, f"{found}; a CPU is {_describe(key)}")
        hint = ""
        if error["type"] == "literal_error" and isinstance(error["input"], str):
            nearest = _nearest(error["input"], [str(word) for word in get_args(_bare(kind)[0])])
            hint = f"; did you mean `{nearest}`?" if nearest else ""
        what = f"found {self._document.describe(at)}; allowed: {_describe(kind)}{hint}"
        if error["type"] == "string_type" and not isinstance(error["input"], dict | tuple):
            what += "; quote it to make it text" if error["input"] is not None else ""
        if error["type"] == "refused":
            what = f"found {self._document.describe(at)}; {error['ctx']['why']}"
        if error["type"] == "withheld":
            what = error["ctx"]["why"]
        return self._document.blame(at, what)

    def _type_at(self, at: Location) -> Any:
        """Return the type that the form has at a location."""
        found: Any = self._root
        for step in at:
            found = _below(found, step)
        return found

    def _keys(self, at: Location) -> list[str]:
        return list(_fields(self._type_at(at)))

    def _home(self, key: str) -> str | None:
        """Say where in a file a key would be known."""
        top_level = self._keys(())
        if key in top_level:
            return "to the top level"
        for top in top_level:
            if key in self._keys((top,)):
                return f"below `{top}`"
            if key in self._keys((top, 0)):
                return f"to an item of `{top}`"
        return None

    def _meaning(self, at: Location) -> str:
        info = self._type_at(at)
        return (info.description if isinstance(info, FieldInfo) else None) or "needed"


def _is_echo(error: ErrorDetails) -> bool:
    """Tell whether a list is held to be too short only because its items are wrong."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _plain(at: Sequence[str | int]) -> Location:
    """Return a location without the steps that are pydantic's own."""
    return tuple(step for step in at if not str(step).startswith("@") and step != _KEY)


def _nearest(word: str, known: Sequence[str]) -> str | None:
    found = difflib.get_close_matches(word.lower().replace("-", "_"), known, n=1, cutoff=0.65)
    return found[0] if found else None


def _below(kind: Any, step: str | int) -> Any:
    kind, _ = _bare(kind)
    if fields := _fields(kind):
        return fields.get(str(step), object)
    if get_origin(kind) is tuple:
        return get_args(kind)[0] if isinstance(step, int) else object
    return _mapping(kind)[1]


def _mapping(kind: Any) -> tuple[Any, Any]:
    """Return the key's and the value's type of a mapping, or of the one in a union."""
    kind, _ = _bare(kind)
    members = get_args(kind) if _is_union(kind) else (kind,)
    for member in members:
        bare, _ = _bare(member)
        if get_origin(bare) is dict:
            key, value = get_args(bare)
            return key, value
    return object, object


def _bare(kind: Any) -> tuple[Any, list[Any]]:
    """Return a type without what is annotated to it, and that."""
    notes: list[Any] = []
    while True:
        if isinstance(kind, FieldInfo):
            notes += kind.metadata
            kind = kind.annotation
        elif get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            for note in more:
                notes += note.metadata if isinstance(note, FieldInfo) else [note]
        elif _is_union(kind) and type(None) in get_args(kind):
            (kind,) = [member for member in get_args(kind) if member is not type(None)]
        else:
            return kind, notes


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _fields(kind: Any) -> dict[str, FieldInfo]:
    """Return the keys of a model as they are in a file; of what is none, nothing."""
    kind, _ = _bare(kind)
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    return {info.alias or name: info for name, info in kind.model_fields.items()}


def _describe(kind: Any) -> str:
    kind, notes = _bare(kind)
    said = next((note.text for note in notes if isinstance(note, Words)), None)
    if said:
        return said
    low = next((note.ge for note in notes if isinstance(note, Ge)), None)
    high = next((note.le for note in notes if isinstance(note, Le)), None)
    least = next((note.min_length for note in notes if isinstance(note, MinLen)), 0)
    most = next((note.max_length for note in notes if isinstance(note, MaxLen)), None)
    if get_origin(kind) is Literal:
        *words, last = map(str, get_args(kind))
        return f"{', '.join(words)} or {last}"
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        return f"a {'whole ' if kind is int else ''}number from {low} to {high}"
    if kind is str:
        size = f" of {least} to {most} characters" if most else ""
        return f"text on one line{size}" if size else "text"
    if _is_union(kind):
        one, _ = get_args(kind)
        return f"{_describe(one)}, or such a number for each CPU like {{2: 64}}"
    if get_origin(kind) is tuple:
        span = f" of {least} to {most}" if most else ""
        return f"a list{span}, each {_describe(get_args(kind)[0])}"
    return f"a mapping with the keys {', '.join(_fields(kind))}"
