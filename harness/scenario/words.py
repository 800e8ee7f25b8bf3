"""The types that a scenario's keys are made of, each with words for what it allows."""

from __future__ import annotations

import errno as errnos
from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, Tag

from harness.errors import UserError
from harness.forms.model import EACH, ONE, Line, Words, refuse, withhold
from harness.machine.topology import MAX_CPUS
from harness.target.address import Address

MAX_KEY = 8191
"""The largest key that a cpumap may have at NR_CPUS=8192."""
MAX_FRAMES = 1_000_000
MAX_MAPS = 8
MAX_NICS = 8
MAX_RATE = 10_000_000
SPAN = "@span"
"""Tag of a union's member that is a range; it shows up in the locations of errors."""


def _check_errno(name: str) -> str:
    if name not in errnos.errorcode.values():
        raise refuse("allowed: the name of an errno, such as EEXIST")
    return name


def _check_target(text: str) -> str:
    try:
        return str(Address.parse(text))
    except UserError as error:
        raise withhold(f"{error.message}: {error.remedy}") from error


def _check_span(span: tuple[int, int]) -> tuple[int, int]:
    if span[0] > span[1]:
        raise refuse("allowed: [lowest, highest] in this order")
    return span


def _member(value: object) -> str:
    if isinstance(value, dict):
        return EACH
    return SPAN if isinstance(value, list | tuple) else ONE


Title = Annotated[Line, Field(min_length=1, max_length=200)]
FilePath = Annotated[Line, Field(min_length=1, max_length=4096)]
SPECS = Words("a kernel spec such as debian:6.1, or a list of them")
Errno = Annotated[str, AfterValidator(_check_errno), Words("the name of an errno, such as EEXIST")]
TARGET = "ssh://user@host[:port]"
TargetAddress = Annotated[Line, AfterValidator(_check_target), Words(TARGET)]
Key = Annotated[int, Field(ge=0, le=MAX_KEY)]
MapNumber = Annotated[int, Field(ge=0, le=MAX_MAPS - 1)]
NicNumber = Annotated[int, Field(ge=0, le=MAX_NICS - 1)]
Rate = Annotated[int, Field(ge=1, le=MAX_RATE)]
Port = Annotated[int, Field(ge=1, le=65535)]
Cpus = Annotated[int, Field(ge=1, le=MAX_CPUS)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=MAX_FRAMES)]
Span = Annotated[
    tuple[Count, Count], AfterValidator(_check_span), Words("a range [lowest, highest]")
]
Amount = Annotated[
    Annotated[Count, Tag(ONE)] | Annotated[Span, Tag(SPAN)],
    Discriminator(_member),
    Words(f"a whole number from 0 to {MAX_FRAMES}, or a range [lowest, highest]"),
]
Amounts = Annotated[
    Annotated[Count, Tag(ONE)]
    | Annotated[Span, Tag(SPAN)]
    | Annotated[dict[Key, Amount], Tag(EACH)],
    Discriminator(_member),
    Words(
        f"a whole number from 0 to {MAX_FRAMES}, a range [lowest, highest], or such for each CPU "
        "like {2: 64}"
    ),
]
"""Frames in all, or by CPU; CPUs that are not named have none."""
