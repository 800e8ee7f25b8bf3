"""A scenario's matrix: the values of each axis, and what a run of them is."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from harness.scenario.parts import Matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_RUNS = 1024
BELOW_STEER = ("mode", "by")
Axes = dict[str, tuple[Any, ...]]


def axes_of(matrix: Matrix, *, without: frozenset[str] = frozenset()) -> Axes:
    """Return the values of each axis that has any, but for those that are overridden."""
    names = [name for name in Matrix.model_fields if name not in without]
    return {name: values for name in names if (values := getattr(matrix, name))}


def expand_data(data: dict[str, Any], axes: Axes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield for each combination its name, like `[cpus=4,qsize=8]`, and the data of its run."""
    for values in product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        told = ",".join(f"{name}={value}" for name, value in chosen.items())
        yield f"[{told}]", _put(data, chosen)


def _put(data: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    data = dict(data)
    for name, value in chosen.items():
        if name == "qsize":
            data["entries"] = tuple({**entry, "qsize": value} for entry in data["entries"])
        elif name in BELOW_STEER:
            data["steer"] = {**data.get("steer", {}), name: value}
        elif name == "kernel":
            data["kernel"] = (value,)
        else:
            data[name] = value
    return data
