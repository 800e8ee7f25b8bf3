"""What the figures hold for, and how they are shown."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from harness.bench.measure import cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.bench.rates_report import RateFindings
    from harness.bench.report import Findings
    from harness.machine.machine import Recipe


def setting_of(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """Return what the figures hold for: kernels, guest, QEMU, accelerator and host."""
    recipe = recipes[0]
    return {
        "kernels": [
            {"spec": r.kernel.spec, "release": r.kernel.release, "version": r.kernel.version}
            for r in recipes
        ],
        "cpus": recipe.topology.cpus,
        "memory_mib": recipe.topology.memory_mib,
        "qemu": recipe.qemu.version_string,
        "accel": recipe.accel.argument,
        "why": recipe.accel.why,
        "host_cores": cores(),
        "host_load": round(os.getloadavg()[0], 2),
    }


def show(findings: Findings | RateFindings) -> None:
    """Print the findings for people: tables on a terminal, plain columns otherwise."""
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 200, highlight=False)
    setting = findings.setting
    kernels = ", ".join(kernel["release"] for kernel in setting["kernels"])
    head = (
        f"{kernels}; {setting['cpus']} CPUs, {setting['memory_mib']} MiB",
        f"{setting['qemu']}, {setting['accel']}: {setting['why']}",
        f"{setting['host_cores']} host cores, load {setting['host_load']} at the start",
    )
    for part in (*head, *findings.tables()):
        if isinstance(part, Table):
            part.box = SIMPLE if terminal else None
            part.title_justify = "left"
            console.print(part)
        else:
            console.print(part, soft_wrap=True, markup=False)
