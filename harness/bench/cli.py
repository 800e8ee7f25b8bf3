"""The command: its options, and what is measured in which order."""

from __future__ import annotations

import json
import sys

import click
from click.core import ParameterSource

from harness.bench.boots import template
from harness.bench.measure import measure_boots, measure_traffic
from harness.bench.rates_cli import rates
from harness.bench.report import Findings
from harness.bench.setting import setting_of, show
from harness.bench.stress import many_boots, many_clones
from harness.bench.virtme import STANDARD
from harness.errors import LabError
from harness.lab import Lab
from harness.machine.topology import Topology
from harness.phases import Phases
from harness.vng import find_vng

KERNEL = "debian:7.3"
RUNS = 5
FRAMES = 50_000


@click.group("bench", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One object on stdout, for programs.")
@click.option(
    "--kernel",
    "specs",
    multiple=True,
    metavar="SPEC",
    help=f"Kernel to measure ({KERNEL}); with --boots alone, repeatable.",
)
@click.option("--runs", type=click.IntRange(1), help=f"Rounds of measuring ({RUNS}).")
@click.option(
    "--frames", type=click.IntRange(1000), default=FRAMES, help=f"Frames per run ({FRAMES})."
)
@click.option("--clones", type=click.IntRange(1), help="Clone so often, and count failures.")
@click.option("--boots", type=click.IntRange(1), help="Boot so often, and count failures.")
@click.pass_context
def bench(
    context: click.Context,
    *,
    as_json: bool,
    specs: tuple[str, ...],
    runs: int | None,
    frames: int,
    clones: int | None,
    boots: int | None,
) -> None:
    """Measure boot, clone and traffic here, and say what limits them.

    Where virtme-ng is installed, the boot of one kernel through it is measured beside ours.
    With --clones or --boots nothing else is measured, unless --runs is given as well.
    The exit status is 125 when anything of ours failed on the way.
    """
    if context.invoked_subcommand:
        asked = [p.opts[0] for p in context.command.params if _is_given(context, p.name or "")]
        if asked:
            raise click.UsageError(f"{asked[0]} is not for {context.invoked_subcommand}")
        return
    specs = specs or (KERNEL,)
    measured = RUNS if runs is None and not clones and not boots else runs
    if len(specs) > 1 and (measured or clones):
        raise click.UsageError("several kernels go with --boots alone")
    with Phases(sys.stderr) as phases:
        lab = Lab(say=phases.begin, progress=phases.fetch)
        recipes = [lab.recipe(spec, Topology()) for spec in specs]
        standard = lab.recipe(STANDARD, Topology()) if measured and find_vng() else None
        findings = Findings(setting_of(recipes), frames)
        if standard is None:
            findings.peer = "not installed"
        if measured:
            measure_boots(findings, recipes[0], standard, measured, phases.begin)
            measure_traffic(findings, recipes[0], measured, phases.begin)
        if clones:
            snapshot = template(recipes[0])
            findings.stress.append(many_clones(recipes[0], snapshot, clones, phases))
        if boots:
            findings.stress += [many_boots(recipe, boots, phases) for recipe in recipes]
    if as_json:
        click.echo(json.dumps(findings.to_json(), indent=1))
    else:
        show(findings)
    if not findings.sound:
        raise click.exceptions.Exit(LabError.exit_status)


bench.add_command(rates)


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE
