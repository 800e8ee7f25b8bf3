"""What is run on each kernel: scenarios in this process, a case in one of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness import errors
from harness.apart import ask_apart
from harness.bisect.case_run import names_of
from harness.bisect.sight import LabBroken, Sight, show_of, worst
from harness.errors import KernelNotFound, LabError, UserError
from harness.lab import Lab
from harness.scenario.load import load_scenarios
from harness.scenario.runner import Watch, run_scenario
from harness.verdict import Verdict

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from harness.phases import Phases
    from harness.scenario.schema import Scenario

CASE_RUN = "harness.bisect.case_run"
CASE_TIMEOUT_S = 1800.0
"""Far beyond any deadline of the lab's."""


class Subject(Protocol):
    """What a bisection asks of each kernel."""

    @property
    def name(self) -> str:
        """As the user gave it."""

    @property
    def content(self) -> str:
        """What the answer depends on, beside the kernel: another content is another question."""

    @property
    def topics(self) -> Sequence[Scenario]:
        """The scenarios; none if it is a case."""

    def ask(self, spec: str, root: Path) -> Sight:
        """Run it once on a kernel.

        Args:
            spec: the kernel.
            root: where its results go.

        Raises:
            LabBroken: the lab is at fault.
            UserError: the request is wrong.
        """


@dataclass(frozen=True)
class Scenarios:
    """Scenarios of a file: the failure shows itself if any of its runs has it.

    Attributes:
        name: the file, as it was given.
        topics: its scenarios.
        phases: told what goes on.
        signature: what to look for on the console, instead of a verdict.
    """

    name: str
    topics: tuple[Scenario, ...]
    phases: Phases
    signature: re.Pattern[str] | None = None

    @property
    def content(self) -> str:
        """The scenarios as they were expanded."""
        # Without what is left to its default: a key that the schema gains changes no question
        how: dict[str, Any] = {"exclude": {"kernel"}, "exclude_defaults": True, "mode": "json"}
        told = [each.model_dump(**how) for each in self.topics]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def ask(self, spec: str, root: Path) -> Sight:
        """Run each on a kernel, up to the first that shows it."""
        sights = []
        for scenario in self.topics:
            sights.append(self._run(scenario, spec, root))
            if sights[-1].shown:
                break
        return worst(sights)

    def _run(self, scenario: Scenario, spec: str, root: Path) -> Sight:
        watch, start = Watch(self.phases.begin, self.phases.advance), time.monotonic()
        # A new one each time: it remembers kernels by their spec, and a tree's is always the same
        lab = Lab(say=self.phases.begin, progress=self.phases.fetch)
        try:
            outcome = run_scenario(lab, scenario, spec, watch, root=root)
        except KernelNotFound as error:
            return Sight(None, "skip", error.message, time.monotonic() - start)
        finally:
            self.phases.end()
        if outcome.not_kept:
            raise LabBroken(f"the results of a run cannot be kept: {outcome.not_kept}")
        record = outcome.record
        seen = None
        if self.signature:
            files = [record.artifacts / name for name in ("console.log", "dmesg.txt")]  # type: ignore[operator]
            texts = [file.read_text(errors="replace") for file in files if file.exists()]
            seen = any(map(self.signature.search, texts))
        why = " ".join(" ".join(record.reasons).split())
        kind = None if outcome.error is None else type(outcome.error)
        shown = show_of(record.verdict, kind, why, seen)
        return Sight(shown, record.verdict, why, record.duration_s, record.artifacts)


@dataclass(frozen=True)
class Case:
    """A case, or several, by pytest id.

    Attributes:
        name: the id, with or without a kernel in it.
        phases: told what goes on.
        signature: what to look for on the console, instead of a verdict.
        topics: none.
    """

    name: str
    phases: Phases
    signature: re.Pattern[str] | None = None
    topics: tuple[Scenario, ...] = ()

    @property
    def content(self) -> str:
        """The file with the case."""
        return hashlib.sha256(Path(self.name.partition("::")[0]).read_bytes()).hexdigest()

    def ask(self, spec: str, root: Path) -> Sight:
        """Run it on a kernel."""
        self.phases.begin(f"running {self.name} on {spec}")
        try:
            told = self._pytest(spec, root)
        finally:
            self.phases.end()
        if told["fault"]:
            raise UserError(told["fault"])
        return worst([self._see(each) for each in told["results"]])

    def _see(self, told: dict[str, Any]) -> Sight:
        error = getattr(errors, told["error"], LabError) if told["error"] else None
        seen = told["signature"] if self.signature else None
        why = " ".join(told["reason"].split())
        shown = show_of(Verdict(told["verdict"]), error, why, seen)
        artifacts = Path(told["artifacts"]) if told["artifacts"] else None
        return Sight(shown, told["verdict"], why, told["duration_s"], artifacts)

    def _pytest(self, spec: str, root: Path) -> Any:
        request = {
            "case": self.name,
            "kernel": spec,
            "artifacts": str(root),
            "signature": self.signature.pattern if self.signature else None,
        }
        with tempfile.TemporaryFile() as said:
            try:
                told = ask_apart(CASE_RUN, request, said, timeout_s=CASE_TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                raise LabBroken(f"{self.name} did not end in {CASE_TIMEOUT_S:.0f} s") from error
            if told is None:
                said.seek(0)
                last = said.read().decode(errors="replace").strip().splitlines()[-8:]
                raise LabBroken(f"pytest broke on {self.name}:\n" + "\n".join(last))
        return told


def make_subject(name: str, phases: Phases, signature: re.Pattern[str] | None = None) -> Subject:
    """Return what a name means: a scenario's file (or one of its runs), or a case's pytest id.

    Raises:
        ScenarioError: the file is no scenario.
        UserError: there is no such file, or no such run in it.
    """
    file, _, run = name.partition("::")
    path = Path(file)
    if path.suffix not in (".yaml", ".yml"):
        if not path.exists():
            raise UserError(
                f"there is no {file}",
                remedy="give a scenario's file, or a case by its pytest id: FILE.py::CASE",
            )
        return Case(name, phases, signature)
    topics = load_scenarios(path)
    if run:
        names = {*names_of(name)}
        topics = [each for each in topics if each.name in names]
    if not topics:
        raise UserError(f"{file} has no run called {run} (`cpumap-lab check {file}` lists them)")
    for each in topics:
        if each.target:
            raise UserError(
                f"{each.name} runs on {each.target}, which has a kernel of its own",
                remedy="leave out `target`: kernels are bisected in guests",
            )
    return Scenarios(name, tuple(topics), phases, signature)
