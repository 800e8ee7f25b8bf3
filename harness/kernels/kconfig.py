"""Kernel configurations: reading them, and the fragments that ours are built from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.paths import REPO

if TYPE_CHECKING:
    from pathlib import Path

FRAGMENTS = REPO / "configs" / "kconfig"
MINIMAL = "minimal"
"""The fragment that every kernel of ours starts from."""

_LINE = re.compile(r"^(?:CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set)$", re.MULTILINE)
_MAKE = re.compile(r"^#: make (\S+=\S*)$", re.MULTILINE)


@dataclass(frozen=True)
class Fragment:
    """A part of a configuration.

    Attributes:
        name: of its file, without ".config".
        text: its lines, as Kconfig reads them.
    """

    name: str
    text: str

    @property
    def options(self) -> dict[str, str]:
        """What it asks for, as `options_of`."""
        return options_of(self.text)

    @property
    def variables(self) -> tuple[str, ...]:
        """What its comments of the form `#: make NAME=value` give to make."""
        return tuple(_MAKE.findall(self.text))


def options_of(text: str) -> dict[str, str]:
    """Return the options in a configuration by name, without CONFIG_; "n" for those not set."""
    return {
        name or unset: value.strip('"') if name else "n"
        for name, value, unset in _LINE.findall(text)
    }


def read_fragment(file: Path) -> Fragment:
    """Read a fragment.

    Raises:
        UserError: there is no such file, or it sets nothing.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the configuration fragment {file}: {error}") from error
    if not options_of(text):
        raise UserError(
            f"{file} is no configuration fragment: no line of it is `CONFIG_NAME=value` or "
            "`# CONFIG_NAME is not set`"
        )
    return Fragment(file.name.removesuffix(".config"), text)


def debug_names() -> list[str]:
    """Return the names of our fragments that make debug kernels."""
    names = sorted(path.name.removesuffix(".config") for path in FRAGMENTS.glob("*.config"))
    return [name for name in names if name != MINIMAL]


def own_fragments(debug: tuple[str, ...] = ()) -> tuple[Fragment, ...]:
    """Return the minimal fragment and those of the debug features named.

    Raises:
        UserError: there is no such feature.
    """
    unknown = [name for name in debug if name not in debug_names()]
    if unknown:
        raise UserError(
            f"no debug kernel is called {', '.join(unknown)}",
            remedy=f"they are {', '.join(debug_names())}",
        )
    # In one order, whatever was asked first: the same features are the same kernel
    names = (MINIMAL, *sorted(set(debug)))
    return tuple(read_fragment(FRAGMENTS / f"{name}.config") for name in names)
