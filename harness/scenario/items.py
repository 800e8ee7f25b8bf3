"""Scenario files as pytest's test items: one for each run, with the run's own verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import ScenarioError
from harness.scenario.cli import append_to
from harness.scenario.load import is_scenario, load_scenarios
from harness.scenario.runner import run_scenario
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.lab import Lab
    from harness.report.record import RunRecord
    from harness.scenario.schema import Scenario
    from harness.target.lab import TargetLab


class RunEnded(Exception):
    """A run that did not pass: verdict, reasons, and where its results are."""

    def __init__(self, record: RunRecord) -> None:
        kept = [f"results: {record.artifacts}"] if record.artifacts else []
        super().__init__("\n".join((f"verdict: {record.verdict}", *record.reasons, *kept)))


class ScenarioFile(pytest.File):
    """A scenario file.

    Attributes:
        specs: kernels to run it on instead of its own; empty for those, or for `default`.
        default: the kernel of a scenario that names none.
        workshop: returns the lab of a target, or without one the lab that makes the guests.
    """

    specs: list[str]
    default: str
    workshop: Callable[[str | None], Lab | TargetLab]

    @classmethod
    def of(
        cls, parent: pytest.Collector, path: Path, *, specs: list[str], default: str, **how: Any
    ) -> ScenarioFile | None:
        """Return the collector of a file; None if it is no scenario."""
        if not is_scenario(path):
            return None
        file: ScenarioFile = cls.from_parent(parent, path=path)
        file.specs, file.default, file.workshop = specs, default, how["workshop"]
        return file

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a run for each combination of its matrix and each kernel."""
        try:
            overrides: dict[str, object] = {"kernel": tuple(self.specs)} if self.specs else {}
            if launcher := self.config.getoption("--launcher"):
                overrides["launcher"] = launcher
            if target := self.config.getoption("--target"):
                overrides |= {"target": target, "kernel": None}
            scenarios = load_scenarios(self.path, overrides)
        except ScenarioError as error:
            raise self.CollectError(str(error)) from None
        append = self.config.getoption("--append")
        for scenario in scenarios:
            for spec in scenario.specs or (self.default,):
                yield Run.from_parent(
                    self,
                    name=_name(scenario.name, spec),
                    scenario=append_to(scenario, append),
                    spec=spec,
                    workshop=self.workshop,
                )


def _name(scenario: str, spec: str) -> str:
    """Return a test's name, like `mine[debian:6.1]` or `mine[qsize=8-debian:6.1]`."""
    if f"kernel={spec}" in scenario:
        return scenario
    return f"{scenario[:-1]}-{spec}]" if scenario.endswith("]") else f"{scenario}[{spec}]"


class Run(pytest.Item):
    """One run of a scenario."""

    def __init__(
        self,
        *,
        scenario: Scenario,
        spec: str,
        workshop: Callable[[str | None], Lab | TargetLab],
        **how: Any,
    ) -> None:
        super().__init__(**how)
        self._scenario = scenario
        self._spec = spec
        self._workshop = workshop

    def runtest(self) -> None:
        """Run it; what does not pass is raised or skipped."""
        root = self.config.getoption("--artifacts")
        lab = self._workshop(self._scenario.target)
        outcome = run_scenario(lab, self._scenario, self._spec, root=root)
        record = outcome.record
        self.user_properties.append(("verdict", str(record.verdict)))
        self.user_properties.append(("kernel", self._spec))
        if outcome.again:
            self.user_properties.append(("again", outcome.again))
        if record.artifacts is not None:
            self.user_properties.append(("artifacts", str(record.artifacts)))
        if record.verdict is Verdict.SKIP:
            pytest.skip("\n".join(record.reasons))
        if record.verdict is not Verdict.PASS:
            raise RunEnded(record)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return what is told of a run that did not pass: it needs no Python traceback."""
        if isinstance(excinfo.value, RunEnded):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return where it stands and what it is called."""
        return self.path, None, self.name
