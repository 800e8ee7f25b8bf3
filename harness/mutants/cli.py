"""`cpumap-lab mutants`: would the cases see it if cpumap.c were wrong?"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import LabError, UserError
from harness.kernels.build import BuildFailed, build_kernel, output_of
from harness.kernels.kconfig import own_fragments
from harness.kernels.source import NEWEST, fetch_source
from harness.mutants.plan import FILE, choose, load_mutants
from harness.mutants.trial import run_trial
from harness.mutants.twin import CPUMAP, twin_of
from harness.phases import Phases
from harness.progress import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.kernels.kconfig import Fragment
    from harness.mutants.plan import Mutant
    from harness.mutants.trial import Trial

FEATURES = ("failslab",)
"""Of the kernels: bugs in what handles failed allocations are to be seen, too."""
AS_IT_IS = "as it is"
OUTCOME, NAME = 10, 40
"""Columns of a line on a mutant."""
LOG = "mutants.log"
"""What pytest said of the last kernel, in the directory that it was built in."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a mutant.

    Attributes:
        name: its name.
        outcome: "caught"; "survived", of all cases that ran; "invalid", when the lab has no
            verdict; "absent", when this source has no such code; "unseen", when no case can see
            it; or "unbuilt".
        told: the cases that failed and why, or why there is nothing to tell.
        seconds: for the build and the cases.
    """

    name: str
    outcome: str
    told: str
    seconds: float = 0.0


@click.command("mutants")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--file",
    default=FILE,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of mutants, instead of configs/mutants.yaml.",
)
@click.option(
    "--tree", type=click.Path(path_type=Path, file_okay=False), help="A source tree; only read."
)
@click.option("--source", metavar="SPEC", help="Debian's source: debian:7.3, debian:7.3.4.")
@click.option("--all", "whole", is_flag=True, help="Run all cases, not those that the file names.")
@click.option(
    "-n", "workers", metavar="N", type=click.IntRange(1, 64), help="Guests at once (one per core)."
)
@click.option("--plan", is_flag=True, help="Only say which of them this source can have.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write JSON there."
)
def mutants(
    names: tuple[str, ...],
    file: Path,
    tree: Path | None,
    source: str | None,
    whole: bool,
    workers: int | None,
    plan: bool,
    json_path: Path | None,
) -> None:
    """Build kernels with one deliberate bug in cpumap.c each, and see the cases fail.

    configs/mutants.yaml has the bugs; without NAMEs, all are tried. First the kernel is built as
    it is, and has to pass all cases that are to fail. Each bug is caught if a case fails.

    \b
    Examples:
      cpumap-lab mutants --plan
      cpumap-lab mutants lookup-key-equal --source debian:6.1
      cpumap-lab mutants --tree ~/linux --json mutants.json
      cpumap-lab mutants flush-no-wake-up --all

    \b
    Exit status:
      0    each bug that this source can have was caught
      1    one was not
      2    the request is wrong
      125  of one the lab has no verdict, or the kernel fails as it is
    """  # noqa: D301 - click takes a real \b for "do not wrap"
    if tree and source:
        raise click.UsageError("give --tree or --source, not both")
    if json_path is not None and not json_path.parent.is_dir():
        raise UserError(f"there is no directory {json_path.parent} to write the results to")
    chosen = choose(load_mutants(file), names)
    if tree is None:
        with shown() as progress:
            tree = fetch_source(source or NEWEST, progress=progress)
    tree = tree.resolve()
    if not (tree / CPUMAP).is_file():
        raise UserError(f"{tree} is no kernel source tree: it has no {CPUMAP}")
    good = (tree / CPUMAP).read_text()
    if plan:
        for mutant in chosen:
            click.echo(f"{_fate(mutant, good) or 'to try':<{OUTCOME}}{mutant.name}")
        return
    found: list[Finding] = []
    try:
        with contextlib.ExitStack() as until_done:
            phases = until_done.enter_context(Phases(sys.stderr))
            phases.begin(f"making a twin of {tree}, when nobody else has one")
            twin = until_done.enter_context(twin_of(tree))
            trials = Trials(twin, good, whole=whole, workers=workers, phases=phases)
            for finding in trials.run(chosen):
                phases.end()
                found.append(finding)
                click.echo(
                    f"{finding.outcome:<{OUTCOME}}{finding.name:<{NAME}}{finding.told}"
                    + (f"  ({finding.seconds:.0f} s)" if finding.seconds else "")
                )
    finally:
        if json_path is not None:
            json_path.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    outcomes = [each.outcome for each in found]
    click.echo(", ".join(f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes)))
    status = 1 if "survived" in outcomes else 0
    unsure = "invalid" in outcomes or "unbuilt" in outcomes
    click.get_current_context().exit(status or (125 if unsure else 0))


def _fate(mutant: Mutant, good: str) -> str | None:
    """Return the outcome for a mutant that is not to be tried; None if it is."""
    if mutant.apply(good) is None:
        return "absent"
    return "unseen" if mutant.unseen else None


class Trials:
    """Builds one kernel after the other at the same place, and runs cases on it.

    Args:
        twin: the tree.
        good: its cpumap.c as it is.
        whole: run all cases, not those that each mutant names.
        workers: guests at once; None: one per core.
        phases: told what goes on.
    """

    def __init__(
        self, twin: Path, good: str, *, whole: bool, workers: int | None, phases: Phases
    ) -> None:
        self._twin = twin
        self._good = good
        self._whole = whole
        self._workers = workers
        self._phases = phases
        self._fragments: tuple[Fragment, ...] = own_fragments(FEATURES)
        self._output = output_of(twin, self._fragments)

    def run(self, mutants: Sequence[Mutant]) -> Iterator[Finding]:
        """Yield what came of each mutant, in their order.

        Raises:
            LabError: the kernel fails as it is, so that failures would say nothing.
        """
        fates = {mutant.name: _fate(mutant, self._good) for mutant in mutants}
        tried = [mutant for mutant in mutants if fates[mutant.name] is None]
        if tried:
            self._check_good(tried)
        for mutant in mutants:
            fate = fates[mutant.name]
            if fate:
                yield Finding(mutant.name, fate, " ".join((mutant.unseen or "").split()))
            else:
                yield self._try(mutant)

    def _check_good(self, mutants: Sequence[Mutant]) -> None:
        named = [mutant.caught_by for mutant in mutants]
        words = [f"({each})" for each in dict.fromkeys(named) if each]
        whole = self._whole or None in named
        expression = None if whole else " or ".join(words)
        trial = self._judge(AS_IT_IS, self._good, expression, stop=False)
        if trial.red or trial.unsure:
            raise LabError(
                f"the kernel that is not broken does not pass: {_tell(trial.red | trial.unsure)}",
                remedy=f"see {self._output / LOG}",
            )
        self._phases.end()
        click.echo(f"{AS_IT_IS:<{OUTCOME + NAME}}{trial.green} cases pass")

    def _try(self, mutant: Mutant) -> Finding:
        since = time.monotonic()
        source = mutant.apply(self._good)
        assert source is not None
        try:
            expression = None if self._whole else mutant.caught_by
            trial = self._judge(mutant.name, source, expression, stop=True)
        except BuildFailed as error:
            return Finding(mutant.name, "unbuilt", error.errors[0] if error.errors else "")
        seconds = time.monotonic() - since
        if trial.red:
            return Finding(mutant.name, "caught", _tell(trial.red), seconds)
        if trial.unsure or not trial.green:
            told = _tell(trial.unsure) or "no case runs on this kernel"
            return Finding(mutant.name, "invalid", told, seconds)
        return Finding(mutant.name, "survived", f"{trial.green} cases pass", seconds)

    def _judge(self, name: str, source: str, expression: str | None, *, stop: bool) -> Trial:
        self._phases.begin(f"{name}: building")
        (self._twin / CPUMAP).write_text(source)
        built = build_kernel(self._twin, self._fragments, self._output)
        self._phases.begin(f"{name}: running cases")
        log = self._output / LOG
        return run_trial(f"path:{built.image}", expression, self._workers, log, stop=stop)


def _tell(cases: dict[str, str]) -> str:
    return "; ".join(f"{case.rpartition('::')[2]}: {why[:120]}" for case, why in cases.items())
