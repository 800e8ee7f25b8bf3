"""What the forms of files are made of: a base for models, words for errors, common types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from harness.errors import KernelNotFound
from harness.kernels.spec import parse_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

ONE, EACH = "@one", "@each"
"""Tags of a union's members; they show up in the locations of errors."""


@dataclass(frozen=True)
class Words:
    """Says what a type allows where its own constraints do not say it."""

    text: str


class Conflict(NamedTuple):
    """Two keys that contradict each other.

    Attributes:
        at: the key to blame.
        why: what is wrong with it and what is possible.
        needs: the top-level keys that were compared.
    """

    at: tuple[str | int, ...]
    why: str
    needs: frozenset[str]


class Model(BaseModel):
    """Base of all parts of a form: no unknown keys, no silent conversions, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def refuse(why: str) -> PydanticCustomError:
    """Return what a validator raises: a value that is wrong, and why."""
    return PydanticCustomError("refused", "{why}", {"why": why})


def withhold(why: str) -> PydanticCustomError:
    """Return the same for a value that may have a secret in it, and is not to be shown."""
    return PydanticCustomError("withheld", "{why}", {"why": why})


def contradict(conflicts: list[Conflict]) -> PydanticCustomError:
    """Return what a validator raises: values that do not go together."""
    return PydanticCustomError("conflict", "{conflicts}", {"conflicts": conflicts})


def refuse_repeats(names: Sequence[str], key: str, *above: str) -> None:
    """Refuse a list in which two parts have the same name.

    Args:
        names: of its parts, in their order.
        key: where a part has its name.
        above: the keys under which the list stands.

    Raises:
        PydanticCustomError: it is what a validator raises.
    """
    conflicts = [
        Conflict(
            (*above, number, key),
            f"`{name}` is taken already, by [{names.index(name)}]",
            frozenset(),
        )
        for number, name in enumerate(names)
        if name in names[:number]
    ]
    if conflicts:
        raise contradict(conflicts)


def keys_of(part: type[Model]) -> str:
    """Return the keys of a part, for people."""
    return ", ".join(info.alias or name for name, info in part.model_fields.items())


def _check_spec(text: str) -> str:
    try:
        parse_spec(text)
    except KernelNotFound as error:
        raise refuse(error.remedy) from error
    return text


_LINE = r"^[^\x00-\x1f\x7f]*$"
Line = Annotated[str, Field(pattern=_LINE)]
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=_LINE)]
Spec = Annotated[str, AfterValidator(_check_spec), Words("a kernel spec such as debian:6.1")]
