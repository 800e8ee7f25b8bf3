"""The scenarios in configs/: pytest collects them, editors know their keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from harness.scenario.json_schema import make_json_schema
from harness.scenario.load import is_scenario
from harness.tests.test_scenario_load import GOOD, REPO

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["pytester"]
CONFIGS = REPO / "configs"
SCENARIOS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if is_scenario(path)]
MODELINE = "# yaml-language-server: $schema=scenario.schema.json\n"


def as_json(path: Path) -> Any:
    return json.loads(json.dumps(yaml.safe_load(path.read_text())))


def test_there_are_scenarios_and_other_files() -> None:
    assert len(SCENARIOS) > 15
    assert {path.stem for path in CONFIGS.glob("*.yaml")} > {path.stem for path in SCENARIOS}


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_editors_accept_every_scenario(path: Path) -> None:
    assert path.read_text().startswith(MODELINE)
    jsonschema.validate(as_json(path), make_json_schema())


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": 4},
        {"cpus": 0},
        {"entries": [{"cpu": 1}]},
        {"steer": {"by": "flows"}},
        {"timeline": [{"do": "jump"}]},
        {"expect": {"delivered": "all"}},
        {"expect": {"dropped": [1]}},
        {"kernel": 6.1},
        {"entries": [{"cpu": 1, "qsize": 3, "program": "dorp"}]},
    ],
)
def test_editors_see_mistakes(change: dict[str, Any]) -> None:
    data = as_json(CONFIGS / "quickstart.yaml")
    jsonschema.validate(data, make_json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data | change, make_json_schema())


def test_the_schema_in_configs_is_up_to_date() -> None:
    assert json.loads((CONFIGS / "scenario.schema.json").read_text()) == make_json_schema(), (
        "made anew by: cpumap-lab schema > configs/scenario.schema.json"
    )


def test_pytest_collects_scenarios_only(pytester: pytest.Pytester) -> None:
    files = {
        "mine": GOOD,
        "other": "- id: x\n",
        "another": "kernels: [a]\n",
        "grown": GOOD + "matrix: {qsize: [8, 16]}\n",
        "homeless": GOOD.replace("kernel: debian:7.3\n", ""),
    }
    for name, text in files.items():
        pytester.path.joinpath(f"{name}.yaml").write_text(text)
    result = pytester.runpytest("--collect-only", "-q")
    assert result.parseoutcomes()["tests"] == 4
    told = [line for line in result.outlines if "::" in line]
    assert told == [
        "grown.yaml::grown[qsize=8-debian:7.3]",
        "grown.yaml::grown[qsize=16-debian:7.3]",
        "homeless.yaml::homeless[debian:7.3]",
        "mine.yaml::mine[debian:7.3]",
    ]
    result = pytester.runpytest("--collect-only", "-q", "mine.yaml", "--kernel", "debian:6.1",
                                "--kernel", "debian:6.12")  # fmt: skip
    assert [line for line in result.outlines if "::" in line] == [
        "mine.yaml::mine[debian:6.1]",
        "mine.yaml::mine[debian:6.12]",
    ]


def test_a_broken_scenario_is_no_silent_one(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("mine.yaml").write_text(GOOD + "cpsu: 3\n")
    pytester.path.joinpath("worse.yaml").write_text("entries: [\n")
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*mine.yaml:7:1: cpsu: unknown key; did you mean `cpus`?*"])
    result.stdout.fnmatch_lines(["*worse.yaml:2:1: no YAML*"])


def fake_runs(pytester: pytest.Pytester, verdict: str, again: str = "") -> None:
    pytester.path.joinpath("mine.yaml").write_text(GOOD)
    pytester.makeconftest(f"""
        import harness.scenario.items as items
        from types import SimpleNamespace
        from harness.verdict import Verdict

        def fake(lab, scenario, spec, **_):
            record = SimpleNamespace(
                verdict=Verdict({verdict!r}), reasons=("because " + spec,), artifacts="/kept"
            )
            return SimpleNamespace(record=record, again={again!r})

        items.run_scenario = fake
    """)


@pytest.mark.parametrize(
    ("verdict", "outcomes"),
    [
        ("pass", {"passed": 1}),
        ("skip", {"skipped": 1}),
        ("fail", {"failed": 1}),
        ("crash", {"failed": 1}),
        ("invalid", {"failed": 1}),
    ],
)
def test_verdicts_are_those_of_run(
    pytester: pytest.Pytester, verdict: str, outcomes: dict[str, int]
) -> None:
    fake_runs(pytester, verdict)
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(**outcomes)
    result.stdout.no_fnmatch_line("*run again*")
    if verdict != "pass":
        result.stdout.fnmatch_lines(["*because debian:7.3*"])
    if "failed" in outcomes:
        result.stdout.fnmatch_lines([f"verdict: {verdict}", "results: /kept"])
        assert "Traceback" not in result.stdout.str()


def test_a_scenario_that_was_run_again_is_said_to_be(pytester: pytest.Pytester) -> None:
    fake_runs(pytester, "pass", "an int3")
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*= run again =*", "mine.yaml::mine[[]debian:7.3]: an int3"])
    result.assert_outcomes(passed=1)
