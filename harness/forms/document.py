"""YAML as plain data that knows where each of its parts stood in the file.

What is no plain data (tags, cycles, keys that are no names) is a fault with a place, never an
exception; the data then holds `BROKEN` there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Location = tuple[str | int, ...]
"""Keys and indices from the root of a document to one of its parts."""

CORE = "tag:yaml.org,2002:"
MAX_DIGITS = 40
PLAIN = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)")
"""Whole numbers that mean what they look like: YAML 1.1 reads 010 as 8 and 1:30 as 90."""
FOUND_CHARACTERS = 40


class _Broken:
    """Stands for what could not be read."""


BROKEN = _Broken()


class Fault(NamedTuple):
    """One thing that is wrong in a file.

    Attributes:
        line: where, from 1.
        column: where, from 1.
        path: the key path, like `entries[2].qsize`; "" for the whole file.
        what: what is wrong and what would be right.
        file: another file than the one that was asked for, if it is there.
    """

    line: int
    column: int
    path: str
    what: str
    file: str = ""

    def __str__(self) -> str:
        told = f"{self.line}:{self.column}: {self.path + ': ' if self.path else ''}{self.what}"
        # what stands in a file may be no line: a fault is one
        return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in told)


class Document:
    """The first and only document of a YAML text.

    Args:
        text: the YAML.

    Attributes:
        data: dicts, tuples and scalars; None for an empty document.
        faults: what could not be read.

    Raises:
        yaml.YAMLError: it is no YAML.
        RecursionError: it is nested beyond measure.
    """

    def __init__(self, text: str) -> None:
        self.faults: list[Fault] = []
        self._pairs: dict[int, dict[str | int, tuple[yaml.Node, yaml.Node]]] = {}
        self._made: dict[int, Any] = {}
        self._open: set[int] = set()
        loader = yaml.SafeLoader(text)
        try:
            self._root = loader.get_single_node()
            self._loader = loader
            self.data = None if self._root is None else self._build(self._root, ())
        finally:
            loader.dispose()

    def blame(self, at: Location, what: str, *, key: bool = False) -> Fault:
        """Return a fault at a location, or at the nearest part of it that is in the file.

        Args:
            at: the location.
            what: see `Fault`.
            key: point at its key, not at its value.
        """
        return _fault(self._find(at, key=key), at, what)

    def describe(self, at: Location) -> str:
        """Say what stands at a location, for people."""
        node = self._find(at, key=False)
        return "nothing" if node is None else _describe(node)

    def _find(self, at: Location, *, key: bool) -> yaml.Node | None:
        node = self._root
        for number, step in enumerate(at, 1):
            below: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                name, below = self._pairs[id(node)].get(step, (None, None))
                if key and number == len(at) and name is not None:
                    return name
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                below = node.value[step] if step < len(node.value) else None
            if below is None:
                break
            node = below
        return node

    def _build(self, node: yaml.Node, at: Location) -> Any:
        if id(node) in self._open:
            return self._fail(node, at, "an alias to what it is a part of: that never ends")
        if id(node) not in self._made:
            self._open.add(id(node))
            self._made[id(node)] = self._build_new(node, at)
            self._open.discard(id(node))
        return self._made[id(node)]

    def _build_new(self, node: yaml.Node, at: Location) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._build_scalar(node, at)
        if node.tag not in (f"{CORE}map", f"{CORE}seq"):
            return self._fail(node, at, f"the tag {_tag(node)} is unknown here: leave it out")
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._build(item, (*at, n)) for n, item in enumerate(node.value))
        pairs = self._pairs[id(node)] = dict(self._take_pairs(node, at))
        return {key: self._build(value, (*at, key)) for key, (_, value) in pairs.items()}

    def _take_pairs(
        self, node: yaml.Node, at: Location
    ) -> Iterator[tuple[str | int, tuple[yaml.Node, yaml.Node]]]:
        first: dict[str | int, int] = {}
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode) and name.tag == f"{CORE}merge":
                self._fail(name, at, "merge keys (`<<`) are not taken: write the keys out")
                continue
            known = len(self.faults)
            key = self._build(name, at) if isinstance(name, yaml.ScalarNode) else None
            if len(self.faults) > known:
                continue
            if isinstance(key, bool) or not isinstance(key, str | int):
                found = f"found {_describe(name)} as a key"
                self._fail(name, at, f"{found}; a key is text or a whole number")
            elif key in first:
                what = f"given twice: first on line {first[key]}"
                self._fail(name, (*at, key), what)
            else:
                first[key] = name.start_mark.line + 1
                yield key, (name, value)

    def _build_scalar(self, node: yaml.ScalarNode, at: Location) -> Any:
        kind = node.tag.removeprefix(CORE)
        if kind in ("str", "value", "null"):  # a lone `=` is a "value"
            return None if kind == "null" else node.value
        if kind in ("int", "float", "bool"):
            if len(node.value) > MAX_DIGITS:
                return self._fail(node, at, f"a number of {len(node.value)} characters is too long")
            if kind == "int" and not PLAIN.fullmatch(node.value):
                what = f"`{_clip(node.value)}` is octal or sexagesimal in YAML: write it in decimal"
                return self._fail(node, at, what)
            try:
                return getattr(self._loader, f"construct_yaml_{kind}")(node)
            except (ValueError, LookupError, OverflowError):
                return self._fail(node, at, f"`{_clip(node.value)}` is no {_KINDS[kind]}")
        if kind == "timestamp":
            what = f"`{_clip(node.value)}` reads as a date: quote it to make it text"
            return self._fail(node, at, what)
        return self._fail(node, at, f"the tag {_tag(node)} is unknown here: leave it out")

    def _fail(self, node: yaml.Node, at: Location, what: str) -> _Broken:
        self.faults.append(_fault(node, at, what))
        return BROKEN


_KINDS = {"int": "whole number", "float": "number", "bool": "boolean"}


def show_path(at: Sequence[str | int]) -> str:
    """Write a location as `entries[2].qsize`."""
    text = ""
    for step in at:
        text += f"[{step}]" if isinstance(step, int) else f".{_clip(step)}" if text else _clip(step)
    return text


def _fault(node: yaml.Node | None, at: Location, what: str) -> Fault:
    if node is None:
        return Fault(1, 1, show_path(at), what)
    mark = node.start_mark
    return Fault(mark.line + 1, mark.column + 1, show_path(at), what)


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping" if node.value else "an empty mapping"
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}" if node.value else "an empty list"
    kind = node.tag.removeprefix(CORE)
    if kind == "null":
        return "nothing"
    if kind == "str":
        return f"the text `{_clip(node.value)}`" if node.value else "an empty text"
    return f"the {_KINDS.get(kind, 'value')} `{_clip(node.value)}`"


def _tag(node: yaml.Node) -> str:
    return "!!" + _clip(node.tag.removeprefix(CORE)) if CORE in node.tag else _clip(node.tag)


def _clip(text: str) -> str:
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: FOUND_CHARACTERS + 1])
    return shown if len(text) <= FOUND_CHARACTERS else f"{shown[:FOUND_CHARACTERS]}…"
