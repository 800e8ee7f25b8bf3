"""A scenario file and what it extends, as one document that knows which file says what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.forms.document import BROKEN, Document, Fault, Location
from harness.scenario.objects import find_file_fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXTENDS = "extends"
FILES = ("object", "pcap")
"""Keys whose values are paths, relative to the file that says them."""
MAX_LAYERS = 16


class Layers:
    """Documents over each other: mappings are merged key by key, all else is replaced.

    Args:
        path: the uppermost file.
        parse: reads a file.

    Attributes:
        data: what they say together.
        faults: what could not be read in any of them, cycles among it.

    Raises:
        UserError: a file is no scenario at all.
    """

    def __init__(self, path: Path, parse: Callable[[Path], Document]) -> None:
        self.faults: list[Fault] = []
        self._layers: list[tuple[str, Document]] = []
        self.data: Any = {}
        for file, document in self._walk(path, parse):
            below = _absolute(document.data, file.parent)
            self.data = _merge(below, self.data)
            name = str(file) if self._layers else ""
            self._layers.append((name, document))
            self.faults += [fault._replace(file=name) for fault in document.faults]
        self.data.pop(EXTENDS, None)

    def _walk(
        self, path: Path, parse: Callable[[Path], Document]
    ) -> Iterator[tuple[Path, Document]]:
        """Yield the file, what it extends, what that extends, and so on."""
        seen: list[Path] = []
        file = path
        while True:
            document = parse(file)
            data: dict[Any, Any] = document.data  # type: ignore[assignment]
            seen.append(file.resolve())
            yield file, document
            base = data.get(EXTENDS)
            if not isinstance(base, str):
                if base is not None and base is not BROKEN:
                    found = f"found {document.describe((EXTENDS,))}"
                    self._blame_extends(f"{found}; allowed: the path of a scenario file")
                return
            file = file.parent / Path(base).expanduser()
            if file.resolve() in seen:
                self._blame_extends(f"{file} extends this file in turn: that never ends")
                return
            if len(seen) == MAX_LAYERS:
                self._blame_extends(f"more than {MAX_LAYERS} files, each extending the next")
                return
            if fault := find_file_fault(file):
                self._blame_extends(fault)
                return

    def _blame_extends(self, what: str) -> None:
        name, document = self._layers[-1]
        self.faults.append(document.blame((EXTENDS,), what)._replace(file=name))

    def blame(self, at: Location, what: str, *, key: bool = False) -> Fault:
        """Return a fault in the file that has what is at a location; see `Document.blame`."""
        name, document = self._home(at)
        return document.blame(at, what, key=key)._replace(file=name)

    def describe(self, at: Location) -> str:
        """Say what stands at a location, for people."""
        return self._home(at)[1].describe(at)

    def _home(self, at: Location) -> tuple[str, Document]:
        """Return the file that says what is at a location, or at most of it."""
        layers = self._layers
        for end in range(1, len(at) + 1):
            having = [layer for layer in layers if _has(layer[1].data, at[:end])]
            if not having:
                break
            if not isinstance(_value(having[0][1].data, at[:end]), dict):
                return having[0]
            layers = having
        return layers[0]


def _merge(below: dict[Any, Any], above: dict[Any, Any]) -> dict[Any, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def _absolute(data: Any, directory: Path, known: dict[int, Any] | None = None) -> Any:
    """Make the paths in a file's data absolute; what aliases share is looked at once."""
    known = {} if known is None else known
    if not isinstance(data, tuple | dict):
        return data
    if id(data) not in known:
        if isinstance(data, tuple):
            known[id(data)] = tuple(_absolute(item, directory, known) for item in data)
        else:
            known[id(data)] = {
                key: str((directory / Path(value).expanduser()).absolute())
                if key in FILES and isinstance(value, str) and value and value.isprintable()
                else _absolute(value, directory, known)
                for key, value in data.items()
            }
    return known[id(data)]


def _has(data: Any, at: Location) -> bool:
    try:
        _value(data, at)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _value(data: Any, at: Location) -> Any:
    for step in at:
        data = data[step]
    return data
