"""`cpumap-lab run`, `check`, `rerun`, `diff` and `schema`: scenarios from the command line."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from harness.errors import ScenarioError, UserError
from harness.kernels.lock_cli import LOCKED
from harness.kernels.spec import parse_spec
from harness.machine.topology import LAUNCHERS, MAX_CPUS
from harness.phases import Phases
from harness.report.junit import write_junit
from harness.report.ktap import write_ktap
from harness.report.overview import INCOMPLETE, cell_of, render_overview
from harness.scenario.again import differences, read_run
from harness.scenario.json_schema import make_json_schema
from harness.scenario.load import is_scenario, load_scenarios
from harness.scenario.parts import MAX_APPEND
from harness.target.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from harness.kernels.lock import Lock
    from harness.machine.topology import Launcher
    from harness.scenario.runner import Outcome
    from harness.scenario.schema import Scenario
    from harness.verdict import Verdict

FILES = click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
REPORT = click.File("w", encoding="utf-8", lazy=False)
"""Opened at once: what cannot be written is told before anything is run."""


def _check_spec(_: click.Context, __: click.Parameter, specs: tuple[str, ...]) -> tuple[str, ...]:
    for spec in specs:
        parse_spec(spec)
    return specs


def _check_append(_: click.Context, __: click.Parameter, text: str) -> str:
    if not text.isprintable() or len(text) > MAX_APPEND:
        raise click.BadParameter(f"text on one line of at most {MAX_APPEND} characters is needed")
    return text


def _check_target(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    return str(Address.parse(text)) if text else None


@click.command("run")
@FILES
@click.option(
    "--kernel",
    "kernels",
    metavar="SPEC",
    multiple=True,
    callback=_check_spec,
    help="Run on this kernel instead of the file's; repeat it for several.",
)
@click.option(
    "--cpus", metavar="N", type=click.IntRange(1, MAX_CPUS), help="Instead of the file's."
)
@click.option(
    "--append",
    metavar="ARGS",
    default="",
    callback=_check_append,
    help="Add to the kernel command line.",
)
@click.option(
    "--launcher",
    type=click.Choice(LAUNCHERS),
    help="What boots the guests, instead of the file's: virtme-ng, on this machine's own root.",
)
@click.option(
    "--target",
    metavar="ssh://USER@HOST[:PORT]",
    callback=_check_target,
    help="Run on that machine, with the kernel that it has, instead of in guests.",
)
@LOCKED
@click.option("--no-snapshot", is_flag=True, help="Boot every guest instead of cloning a frozen.")
@click.option(
    "--artifacts",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    help="Keep what runs leave behind there instead of in the cache.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, an object per run.")
@click.option("--html", type=REPORT, help="Write all runs there as one page.")
@click.option("--junit", type=REPORT, help="Write the verdicts there as JUnit XML.")
@click.option(
    "--ktap", type=REPORT, help="Write the verdicts there as KTAP (- is standard output)."
)
def run(
    files: tuple[Path, ...],
    kernels: tuple[str, ...],
    cpus: int | None,
    append: str,
    launcher: Launcher | None,
    target: str | None,
    lock: Lock | None,
    no_snapshot: bool,
    artifacts: Path | None,
    as_json: bool,
    html: TextIO | None,
    junit: TextIO | None,
    ktap: TextIO | None,
) -> None:
    """Run scenarios and judge them. A directory stands for all scenarios in it.

    \b
    Examples:
      cpumap-lab run configs/quickstart.yaml
      cpumap-lab run configs --kernel debian:6.1 --kernel debian:7.3-rt
      cpumap-lab run mine.yaml --kernel path:~/linux/arch/x86/boot/bzImage
      cpumap-lab run mine.yaml --append slub_debug=FZPU --json | jq '.[].verdict'
      cpumap-lab run mine.yaml --target ssh://root@192.0.2.7
      cpumap-lab run configs --html all.html --junit junit.xml --ktap out.ktap

    \b
    Exit status:
      0    every run passed
      1    a run failed, or its kernel crashed
      2    the request is wrong: a file, a kernel spec, an option
      125  otherwise: no verdict on a kernel (invalid), or nothing to test in it (skip)
    """  # noqa: D301
    outcomes: list[Outcome] = []
    complete = False
    try:
        overrides: dict[str, object] = {"cpus": cpus} if cpus else {}
        if kernels:
            overrides["kernel"] = kernels
        if launcher:
            overrides["launcher"] = launcher
        if target:
            given = {"--kernel": kernels, "--append": append, "--launcher": launcher}
            refuse_with_target(given | {"--locked": lock})
            overrides |= {"target": target, "kernel": None}
        scenarios = [append_to(each, append) for _, each in load_all(files, overrides)]
        snapshots = not no_snapshot
        _run_all(scenarios, outcomes, artifacts, lock, snapshots=snapshots, quiet=as_json)
        complete = True
    finally:  # a report of what was run, even if the rest was not
        records = [each.record for each in outcomes]
        if as_json:
            click.echo(json.dumps([record.to_json() for record in records], indent=1))
        if html:
            place = Path(html.name).resolve().parent
            known = {record.kernel.spec: record.kernel for record in records}
            notes = [] if complete else [INCOMPLETE]
            cells = map(cell_of, records)
            html.write(render_overview(cells, place, known.values(), notes=notes))
        if junit:
            junit.write(write_junit(records))
        if ktap:
            ktap.write(write_ktap(records))
    verdicts = [outcome.record.verdict for outcome in outcomes]
    if not as_json and len(verdicts) > 1:
        click.echo(f"\n{summarize(verdicts)}")
    click.get_current_context().exit(worst_status(verdicts))


@click.command("check")
@FILES
def check(files: tuple[Path, ...]) -> None:
    """Check scenarios without running them.

    Every fault is told as file:line:column: key: what was found, what is allowed.

    \b
    Example:
      cpumap-lab check configs
    """  # noqa: D301
    for path, scenario in load_all(files, {}):
        entries, flows = len(scenario.entries), len(scenario.traffic)
        click.echo(
            f"{path}: ok: {scenario.name}: {_count(scenario.frames, 'frame')} in "
            f"{_count(flows, 'flow')} to {_count(entries, 'entry', 'entries')} on "
            f"{_count(scenario.cpus, 'CPU')}, {', '.join(scenario.specs) or 'any kernel'}"
        )


@click.command("schema")
def schema() -> None:
    """Print the JSON Schema of scenarios, for editors that complete and check keys.

    \b
    Example:
      cpumap-lab schema > configs/scenario.schema.json
    """  # noqa: D301
    click.echo(json.dumps(make_json_schema(), indent=1))


@click.command("rerun")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
def rerun(run: Path) -> None:
    """Repeat a run, and say what has changed since.

    RUN is a directory of results, or the run.json in it. Exit status as of `run`.

    \b
    Example:
      cpumap-lab rerun ~/.cache/cpumap-lab/results/20260301T101500Z-quickstart-...
    """  # noqa: D301
    before = read_run(run)
    outcomes: list[Outcome] = []
    _run_all([before.scenario], outcomes, snapshots=True, quiet=False)
    for line in differences(before, outcomes[0]):
        click.echo(line)
    click.get_current_context().exit(worst_status([outcomes[0].record.verdict]))


@click.command("diff")
@click.argument("run_a", type=click.Path(path_type=Path))
@click.argument("run_b", type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="Show what was the same as well.")
@click.option("--html", type=REPORT, help="Write the comparison there as one page.")
@click.option("--json", "as_json", is_flag=True, help="Print all rows as a JSON array.")
def diff(run_a: Path, run_b: Path, every: bool, html: TextIO | None, as_json: bool) -> None:
    """Compare two runs, and say what was not the same.

    Each is a directory of results, or the run.json in it. What they were made from (kernel, QEMU,
    scenario) comes first, then what came of them. Only the latter decides the exit status, and of
    it neither events nor waits, which are never twice the same.

    \b
    Example:
      cpumap-lab diff RESULTS_OF_6.1 RESULTS_OF_7.3 --html diff.html

    \b
    Exit status:
      0    the same came of both
      1    it differs: verdict, reasons, answers, books, CPUs
      2    one of them cannot be read, or is no run
    """  # noqa: D301
    # protobuf and rich take a while to import: not for `check`
    from harness.report.diff import render_diff, show_table  # noqa: PLC0415
    from harness.scenario.diff import compare, read_side  # noqa: PLC0415

    rows = compare(read_side(run_a), read_side(run_b))
    names = click.format_filename(run_a), click.format_filename(run_b)
    if html:
        html.write(render_diff(names, rows))
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=1))
    else:
        show_table(names, rows, every=every)
    click.get_current_context().exit(int(any(row.counts for row in rows)))


def load_all(files: Iterable[Path], overrides: Mapping[str, object]) -> list[tuple[Path, Scenario]]:
    """Load scenarios, each with its file.

    Raises:
        ScenarioError: with the faults of all files.
    """
    scenarios, errors = [], []
    for path in expand_directories(files):
        try:
            scenarios += [(path, scenario) for scenario in load_scenarios(path, overrides)]
        except ScenarioError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ScenarioError("\n".join(str(error) for error in errors))
    return scenarios


def expand_directories(files: Iterable[Path]) -> list[Path]:
    """Return the files, and for each directory the scenarios in it and below.

    Raises:
        ScenarioError: a directory has none.
    """
    found: list[Path] = []
    for path in files:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [each for each in sorted(path.rglob("*.yaml")) if is_scenario(each)]
        if not inside:
            raise ScenarioError(f"there is no scenario in the directory {path}")
        found += inside
    return found


def worst_status(verdicts: Iterable[Verdict]) -> int:
    """Return the exit status of several runs: 1 wins over 125, and that over 0."""
    statuses = {verdict.exit_status for verdict in verdicts}
    return next((status for status in (1, 125) if status in statuses), 0)


def summarize(verdicts: Sequence[Verdict]) -> str:
    """Return how many runs ended how, like "5 runs: 4 pass, 1 fail"."""
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)]
    return f"{_count(len(verdicts), 'run')}: {', '.join(counts)}"


def append_to(scenario: Scenario, append: str) -> Scenario:
    """Return a scenario with more on its kernel command line."""
    return scenario.model_copy(update={"append": f"{scenario.append} {append}".strip()})


def refuse_with_target(given: Mapping[str, object]) -> None:
    """See that no option is given, by its name, that a target has no use for.

    Raises:
        UserError: one is.
    """
    for option, value in given.items():
        if value:
            raise UserError(
                f"--target has a kernel of its own, which runs already: no {option} with it",
                remedy=f"leave out {option}, or --target",
            )


def _run_all(
    scenarios: Sequence[Scenario],
    outcomes: list[Outcome],
    artifacts: Path | None = None,
    lock: Lock | None = None,
    *,
    snapshots: bool,
    quiet: bool,
) -> None:
    # QMP, the trace decoder and their like take a while to import: not for `check`
    from harness.lab import Lab  # noqa: PLC0415
    from harness.report.terminal import show_run  # noqa: PLC0415
    from harness.scenario.runner import Watch, run_scenario  # noqa: PLC0415
    from harness.scenario.workshops import Workshops  # noqa: PLC0415

    for scenario in scenarios:
        if not scenario.specs:
            raise UserError(
                f"{scenario.name} names no kernel to run on",
                remedy="add `kernel: debian:7.3` to the file, or --kernel debian:7.3",
            )
        if lock and scenario.target:
            raise UserError(
                f"{scenario.name} runs on {scenario.target}, and --locked is for kernels in guests"
            )
        if lock:
            for spec in scenario.kernel:
                lock.pin(spec)
    with Phases(sys.stderr) as phases, contextlib.ExitStack() as undo:

        def make_lab() -> Lab:
            return Lab(snapshots=snapshots, say=phases.begin, progress=phases.fetch, lock=lock)

        workshops = undo.enter_context(Workshops(make_lab, say=phases.begin))
        watch = Watch(phases.begin, phases.advance, phases.fetch, phases.tell)
        jobs = [(each, spec) for each in scenarios for spec in each.specs]
        for number, (scenario, spec) in enumerate(jobs):
            lab = workshops.at(scenario.target)
            outcome = run_scenario(lab, scenario, spec, watch, root=artifacts)
            phases.end()
            outcomes.append(outcome)
            for note in (outcome.not_kept, *outcome.notes):
                if note:
                    click.echo(f"note: {note}", err=True)
            if not quiet:
                if number:
                    click.echo()
                show_run(outcome.record, imbalances=outcome.imbalances, socket=outcome.socket)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"
