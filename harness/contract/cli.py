"""`cpumap-lab contract`: what cpumap.c does, since when, and which cases prove it."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Column, Table

from harness.contract.page import page_of, show_kernels, since
from harness.contract.table import Row, read_contract


@click.command("contract")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, an object per row.")
@click.option("--markdown", is_flag=True, help="Print the page that cases/CONTRACT.md holds.")
def contract(as_json: bool, markdown: bool) -> None:
    """Say what cpumap.c does, since when, and which cases prove it.

    The rows are the `proves` marks of the cases; no guest is booted.

    \b
    Examples:
      cpumap-lab contract
      cpumap-lab contract --json | jq '.[] | select(.function == "bq_enqueue")'
      cpumap-lab contract --markdown > cases/CONTRACT.md
    """  # noqa: D301 - click takes a real \b for "do not wrap"
    if as_json and markdown:
        raise click.UsageError("--json or --markdown, not both")
    rows = read_contract()
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    elif markdown:
        click.echo(page_of(rows), nl=False)
    else:
        Console().print(_table(rows))


def _table(rows: list[Row]) -> Table:
    table = Table("function", "behaviour", "since", "kernels", Column("cases", overflow="fold"))
    for row in rows:
        cases = "\n".join(case.removeprefix("cases/") for case in row.cases)
        table.add_row(row.function, row.behaviour, since(row), show_kernels(row), cases)
    return table
