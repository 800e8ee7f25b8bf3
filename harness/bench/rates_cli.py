"""The command `bench traffic`: what is measured, and in which order."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.bench.boots import template
from harness.bench.picture import draw
from harness.bench.rates import INJECTORS, MAX_FRAMES, MODES, Setting, measure
from harness.bench.rates_report import RateFindings, Row
from harness.bench.series import BROKEN, first_line
from harness.bench.setting import setting_of, show
from harness.bench.stream import COUNTS, resident_kib, stream
from harness.errors import LabError, ToolMissing, TrafficError, UserError
from harness.lab import Lab
from harness.landing import write_atomically
from harness.machine.topology import MAX_CPUS
from harness.model.gates import LIVE_FRAMES
from harness.phases import Phases
from harness.scenario.parts import MAX_QSIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.bench.stream import Stream
    from harness.machine.machine import Recipe

KERNEL, CPUS, QSIZES, RUNS, FRAMES = "debian:7.3", 4, (192, 2048), 5, MAX_FRAMES
BRIEF = 50_000
"""A stream much shorter than that is measured several times in each run: others on the host weigh
more in it."""


@click.command("traffic")
@click.option(
    "--kernel", "kernels", multiple=True, metavar="SPEC", help=f"Kernel ({KERNEL}); repeatable."
)
@click.option(
    "--injector",
    "injectors",
    multiple=True,
    type=click.Choice(INJECTORS),
    help="What makes the frames (all of them); repeatable.",
)
@click.option(
    "--cpus",
    multiple=True,
    type=click.IntRange(2, MAX_CPUS),
    help=f"CPUs of the guest, all of them destinations ({CPUS}); repeatable.",
)
@click.option(
    "--qsize",
    "qsizes",
    multiple=True,
    type=click.IntRange(1, MAX_QSIZE),
    help=f"Of each entry ({', '.join(map(str, QSIZES))}); repeatable.",
)
@click.option(
    "--mode", "modes", multiple=True, type=click.Choice(MODES), help="XDP hook (both); repeatable."
)
@click.option(
    "--frames",
    type=click.IntRange(1000, MAX_FRAMES),
    default=FRAMES,
    help=f"Frames of a run ({FRAMES}).",
)
@click.option("--runs", type=click.IntRange(1), default=RUNS, help=f"Runs of each ({RUNS}).")
@click.option(
    "--most",
    type=click.Choice(["0", *map(str, COUNTS)]),
    default=str(COUNTS[-1]),
    help="Frames of the longest stream; 0: no streams.",
)
@click.option("--json", "as_json", is_flag=True, help="One object on stdout, for programs.")
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw the findings there."
)
def rates(
    *,
    kernels: tuple[str, ...],
    injectors: tuple[str, ...],
    cpus: tuple[int, ...],
    qsizes: tuple[int, ...],
    modes: tuple[str, ...],
    frames: int,
    runs: int,
    most: str,
    as_json: bool,
    svg: Path | None,
) -> None:
    """Measure frames a second and waits in the ring, each combination in turn.

    Each run has a fresh guest, and its books must balance: no figure without proof. The figures are
    the guest's own, from its tracepoints.

    Streams of live frames then show what a frame costs the lab, from ten thousand on; they are
    too long to be traced, and counted by the guest's programs instead. The targets beside the
    figures are told, and no reason to fail. The exit status is 125 when a run failed.
    """
    if svg and not svg.absolute().parent.is_dir():
        raise UserError(f"--svg {svg}: there is no directory {svg.absolute().parent}")
    grid = product(injectors or INJECTORS, kernels or (KERNEL,), cpus or (CPUS,), qsizes or QSIZES)
    settings = [Setting(*each, mode) for each in grid for mode in modes or MODES]
    with Phases(sys.stderr) as phases:
        lab = Lab(say=phases.begin, progress=phases.fetch)
        recipes = [lab.recipe(each.kernel, each.topology) for each in settings]
        kernels_of = {recipe.kernel.spec: recipe for recipe in recipes}
        findings = RateFindings(setting_of(list(kernels_of.values())), frames)
        findings.rows = [Row(each) for each in settings]
        for number in range(1, runs + 1):
            for row, recipe in zip(findings.rows, recipes, strict=True):
                if not row.why:
                    _run(row, recipe, frames, f"run {number} of {runs}", phases.begin)
        recipe = lab.recipe(settings[0].kernel, Setting("live", *_rest(settings[0])).topology)
        longest = int(most)
        if longest and LIVE_FRAMES.holds(recipe.kernel.numbers):
            try:
                _stream_all(findings, recipe, longest, runs, phases)
            except (*BROKEN, TrafficError) as error:
                findings.no_streams = f"failed: {first_line(error.message)}"
        elif longest:
            since = ".".join(map(str, LIVE_FRAMES.since))
            findings.no_streams = f"{recipe.kernel.release} makes no live frames: since {since}"
    if svg:
        write_atomically(svg, draw(findings).encode())
    if as_json:
        click.echo(json.dumps(findings.to_json(), indent=1))
    else:
        show(findings)
    reasons = (findings.no_streams, *(row.why for row in findings.rows))
    if any(reason.startswith("failed") for reason in reasons):
        raise click.exceptions.Exit(LabError.exit_status)


def _rest(setting: Setting) -> tuple[str, int, int, str]:
    return setting.kernel, setting.cpus, setting.qsize, setting.mode


def _run(row: Row, recipe: Recipe, frames: int, which: str, say: Callable[[str], None]) -> None:
    setting = row.setting
    row.why = setting.lacks(recipe.kernel.numbers)
    if row.why:
        return
    what = f"{setting.injector}, {setting.cpus} CPUs, qsize {setting.qsize}, {setting.mode}"
    say(f"{which}: {what} on {recipe.kernel.release}")
    try:
        row.samples.append(measure(recipe, template(recipe), setting, frames))
    except ToolMissing as error:
        row.why = first_line(error.message)
    except (*BROKEN, TrafficError) as error:
        row.why = f"failed: {first_line(error.message)}"


def _stream_all(
    findings: RateFindings, recipe: Recipe, most: int, runs: int, phases: Phases
) -> None:
    snapshot = template(recipe)
    findings.rss_kib, findings.no_streams = resident_kib(), ""
    counts = [count for count in COUNTS if count <= most]
    found: dict[int, list[Stream]] = {count: [] for count in counts}
    for number in range(runs):  # side by side: what else the host does is the same for each
        for count in counts:
            if count == COUNTS[-1] and number:
                continue  # the longest is its own median
            phases.begin(f"{count} live frames, run {number + 1} of {runs}")

            def advance(done: int, total: int = count) -> None:
                phases.advance(done, total)

            for _ in range(1 + BRIEF // count):
                found[count].append(stream(recipe, snapshot, count, advance))
    for each in found.values():
        findings.streams.append(sorted(each, key=lambda one: one.cost_us)[len(each) // 2])
