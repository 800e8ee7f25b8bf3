"""Findings of a bench, made up."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

from harness.bench.load import Load, Usage, name_limit
from harness.bench.report import BOOT, CLONE, OWN, PEER, PEER_QEMU, Findings
from harness.errors import QemuFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.machine.machine import Recipe


def series(name: str, *rounds: float) -> tuple[str, Any]:
    """A trial that measures one figure a round; a negative one fails."""
    left = list(rounds)

    def trial() -> Mapping[str, Sequence[float]]:
        value = left.pop(0)
        if value < 0:
            raise QemuFailed("QEMU ended\nand said why")
        return {name: [value]}

    return name, trial


RECIPE = cast(
    "Recipe",
    SimpleNamespace(
        topology=SimpleNamespace(cpus=4),
        kernel=SimpleNamespace(spec="debian:7.3", release="7.3.4-cloud-amd64"),
    ),
)
SNAPSHOT = cast("Any", SimpleNamespace(prepared={}))


def findings() -> Findings:
    found = Findings({"kernels": [{"release": "7.3.4"}]}, 1000, peer="")
    found.boots.rows = [
        {BOOT: (4.0,), CLONE: (0.1, 0.2, 0.4), OWN: (3.0,), PEER: (12.0,), PEER_QEMU: (11.4,)}
    ]
    found.traffic.rows = [
        {"sender": (400_000.0,), "qemu": (200_000.0,), "xdp_drop": (80_000.0,), "cpumap": (45_678,)}
    ]
    found.loads = {"cpumap": Load(Usage(0.1, 0.1), Usage(0.9, 0.0), (Usage(0.5, 0.1),) * 4)}
    found.limit = name_limit(found.loads["cpumap"], 8)
    return found


def told(found: Findings) -> str:
    console = Console(width=200, file=io.StringIO())
    for part in found.tables():
        console.print(part)
    return cast("io.StringIO", console.file).getvalue()
