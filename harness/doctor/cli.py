"""The command: all checks, in the order in which their remedies are best followed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.doctor.build import check_guest, check_libarchive, check_toolchain
from harness.doctor.emulator import (
    check_accel,
    check_kvm,
    check_namespaces,
    check_qemu,
    check_util_linux,
)
from harness.doctor.host import check_cores, check_memory, check_tap, check_virtme
from harness.doctor.item import Check, Item, State, examine
from harness.doctor.store import check_disk, check_kernels, check_leftovers
from harness.errors import LabError
from harness.phases import Phases

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CHECKS: tuple[tuple[str, Check], ...] = (
    ("util-linux", check_util_linux),
    ("libarchive", check_libarchive),
    ("toolchain", check_toolchain),
    ("guest programs", check_guest),
    ("QEMU", check_qemu),
    ("accelerator", check_accel),
    ("/dev/kvm", check_kvm),
    ("user namespaces", check_namespaces),
    ("kernels", check_kernels),
    ("disk", check_disk),
    ("memory", check_memory),
    ("cores", check_cores),
    ("tap", check_tap),
    ("leftovers", check_leftovers),
    ("virtme-ng", check_virtme),
)
COLOURS = {State.OK: "green", State.WARN: "yellow", State.MISSING: "red"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(as_json: bool) -> None:
    """Say what is here, what is missing, what it costs, and what to do about it.

    The exit status is 0 when guests can run here, and 125 when something needed is missing.
    """
    with Phases(sys.stderr) as phases:
        items = []
        for name, check in CHECKS:
            phases.begin(f"looking at {name}")
            items += examine(name, check)
    if as_json:
        found = {"ready": is_ready(items), "items": [asdict(item) for item in items]}
        click.echo(json.dumps(found, indent=1))
    elif sys.stdout.isatty():
        Console(highlight=False).print(table_of(items))
    else:
        click.echo("\n".join(lines_of(items)))
    if not is_ready(items):
        raise click.exceptions.Exit(LabError.exit_status)


def is_ready(items: Iterable[Item]) -> bool:
    """Say whether everything that is needed is there."""
    return all(item.state != State.MISSING for item in items)


def table_of(items: Sequence[Item]) -> Table:
    """Return the items as a table."""
    table = Table("", "ITEM", "SEEN")
    table.columns[2].overflow = "fold"  # a path cut short cannot be copied
    for item in items:
        mark = f"[{COLOURS[item.state]}]{item.state}[/]"
        remedy = f"\n[bold]remedy:[/] {escape(item.remedy)}" if item.remedy else ""
        table.add_row(mark, escape(item.name), escape(item.seen) + remedy)
    return table


def lines_of(items: Sequence[Item]) -> list[str]:
    """Return the items as plain lines; a remedy has a line of its own."""
    lines = []
    for item in items:
        lines.append(f"{item.state:<8}{item.name}: {item.seen}")
        if item.remedy:
            lines.append(f"{'':<8}  remedy: {item.remedy}")
    return lines
