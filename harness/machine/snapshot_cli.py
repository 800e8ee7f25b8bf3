"""`cpumap-lab snapshots`: the frozen guests in the cache."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table

from harness.machine.snapshot import list_snapshots, prune
from harness.progress import megabytes


@click.group("snapshots")
def snapshots() -> None:
    """List and prune the frozen guests that runs are cloned from.

    They are made when they are needed and bounded by themselves; nothing is lost with one.

    \b
    Examples:
      cpumap-lab snapshots list
      cpumap-lab snapshots prune --keep 2000
    """  # noqa: D301


@snapshots.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_command(as_json: bool) -> None:
    """List the snapshots in the cache, the one not used for longest first."""
    kept = list_snapshots()
    rows = [
        {
            "kernel": each.kernel,
            "guest": each.guest,
            "qemu": each.qemu,
            "bytes": each.size,
            "used": datetime.fromtimestamp(each.used, UTC).isoformat(timespec="seconds"),
            "directory": str(each.directory),
        }
        for each in kept
    ]
    if as_json:
        click.echo(json.dumps({"snapshots": rows}, indent=1))
        return
    table = Table("KERNEL", "GUEST", "QEMU", "SIZE", "USED", "SNAPSHOT", box=None)
    for row, each in zip(rows, kept, strict=True):
        used = str(row["used"]).replace("T", " ").removesuffix("+00:00") + " UTC"
        size = megabytes(each.size)
        table.add_row(each.kernel, each.guest, each.qemu, size, used, each.directory.name)
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


@snapshots.command("prune")
@click.option(
    "--keep",
    metavar="MB",
    type=click.IntRange(0),
    default=0,
    help="Keep so many megabytes of those used last (0: remove all).",
)
def prune_command(keep: int) -> None:
    """Remove snapshots from the cache, those not used for longest first.

    \b
    Example:
      cpumap-lab snapshots prune --keep 2000
    """  # noqa: D301
    sizes = {each.directory: each.size for each in list_snapshots()}
    gone = prune(keep * 1_000_000)
    freed = sum(sizes.get(directory, 0) for directory in gone)
    click.echo(f"removed {len(gone)} snapshots, {megabytes(freed)}")
