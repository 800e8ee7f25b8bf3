"""`cpumap-lab qemu`: bring a QEMU, say which one is used."""

from __future__ import annotations

import json

import click

from harness.machine.fetch_qemu import fetch_qemu
from harness.machine.qemu import Qemu, find_qemu
from harness.progress import shown


@click.group("qemu")
def qemu() -> None:
    """Fetch and show the QEMU that runs the guests."""


@qemu.command("fetch")
def fetch_command() -> None:
    """Bring the newest QEMU of this Debian release or its backports into the cache."""
    with shown() as progress:
        found = fetch_qemu(progress=progress)
    _say(found)


@qemu.command("show")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show_command(as_json: bool) -> None:
    """Say which QEMU is used, and why."""
    found = find_qemu()
    if as_json:
        facts = {
            "binary": str(found.binary),
            "version": ".".join(map(str, found.version)),
            "sha256": found.sha256,
            "origin": found.origin,
            "args": found.args,
            "env": dict(found.env),
        }
        click.echo(json.dumps(facts, indent=1))
        return
    _say(found)


def _say(found: Qemu) -> None:
    why = {
        "CPUMAP_LAB_QEMU": "CPUMAP_LAB_QEMU names it",
        "cache": "`cpumap-lab qemu fetch` brought it",
        "path": "it is on PATH and none was fetched",
    }
    click.echo(f"{found.version_string}\n{found.binary} ({why[found.origin]})")
