"""Files that extend others, and matrices: what they make together, and who is to blame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.errors import ScenarioError
from harness.scenario.load import is_scenario, load_scenario, load_scenarios
from harness.tests.test_scenario_load import GOOD

if TYPE_CHECKING:
    from pathlib import Path


def write(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path / "mine.yaml"


def told(path: Path) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        load_scenarios(path)
    return [line.removeprefix(f"{path.parent}/") for line in caught.value.message.split("\n")]


def test_mappings_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    base = GOOD + "cpus: 8\nsteer: {by: flow, miss: drop}\nexpect: {delivered: {0: 1, 2: 2}}\n"
    mine = "extends: base.yaml\nsteer: {by: port}\ntraffic: [{frames: 7}]\n"
    mine += "expect: {delivered: {2: 3}}\n"
    scenario = load_scenario(write(tmp_path, base=base, mine=mine))
    assert (scenario.name, scenario.cpus, scenario.extends) == ("mine", 8, None)
    assert (scenario.steer.by, scenario.steer.miss) == ("port", "drop")
    assert scenario.frames == 7
    assert scenario.expect.delivered == {0: 1, 2: 3}
    assert [entry.cpu for entry in scenario.entries] == [0, 2]


def test_a_chain_of_files_in_several_directories(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "base.yaml").write_text(GOOD)
    (tmp_path / "below" / "middle.yaml").write_text("extends: base.yaml\ncpus: 8\n")
    assert load_scenario(write(tmp_path, mine="extends: below/middle.yaml\n")).cpus == 8


def test_each_fault_is_told_of_its_own_file(tmp_path: Path) -> None:
    base = GOOD.replace("qsize: 64", "qsize: 0") + "cpus: 2\n"
    mine = "extends: base.yaml\nseed: x\ntraffic:\n  - {frames: 0}\n"
    assert [fault.split(": ")[:2] for fault in told(write(tmp_path, base=base, mine=mine))] == [
        ["mine.yaml:2:7", "seed"],
        ["mine.yaml:4:14", "traffic[0].frames"],
        ["base.yaml:4:21", "entries[1].qsize"],
    ]
    conflict = told(write(tmp_path, base=GOOD, mine="extends: base.yaml\ncpus: 2\n"))
    assert conflict == [
        "base.yaml:4:11: entries[1].cpu: there is no CPU 2: the guest has CPUs 0 to 1"
    ]


@pytest.mark.parametrize(
    ("mine", "base", "fault"),
    [
        ("extends: base.yaml\n", "extends: mine.yaml\n", "base.yaml:1:10: extends: "),
        ("extends: mine.yaml\n", "", "mine.yaml:1:10: extends: "),
        ("extends: no.yaml\n", "", "mine.yaml:1:10: extends: there is no file "),
        ("extends: 3\n", "", "mine.yaml:1:10: extends: found the whole number `3`"),
        ("extends: [a]\n", "", "mine.yaml:1:10: extends: found a list of 1"),
        (f"extends: {'x' * 999}\n", "", "mine.yaml:1:10: extends: cannot read "),
        ("extends: .\n", "", "mine.yaml:1:10: extends: there is no file "),
    ],
)
def test_what_cannot_be_extended(tmp_path: Path, mine: str, base: str, fault: str) -> None:
    faults = told(write(tmp_path, mine=GOOD + mine, base=GOOD + base))
    at = fault.split(":")[1]
    line = str(GOOD.count("\n") + int(at))
    assert any(f.startswith(fault.replace(f":{at}:", f":{line}:", 1)) for f in faults), faults
    if "extends: mine.yaml" in (mine + base):
        assert "never ends" in faults[0]


def test_a_fault_is_one_line_whatever_it_quotes(tmp_path: Path) -> None:
    (fault,) = told(write(tmp_path, mine=GOOD + 'extends: "a\\nb\\e[1m"\n'))
    assert fault.endswith(r"/a\nb\x1b[1m")


def test_a_base_that_is_no_yaml_is_told_by_its_name(tmp_path: Path) -> None:
    (fault,) = told(write(tmp_path, mine="extends: base.yaml\n", base="a: [\n"))
    assert fault.startswith("base.yaml:2:1: no YAML")


def test_paths_are_those_of_the_file_that_says_them(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "x.pcap").touch()
    base = GOOD.replace("- frames: 4000", "- {pcap: x.pcap, frames: 3}") + "socket: false\n"
    (tmp_path / "below" / "base.yaml").write_text(base)
    scenario = load_scenario(write(tmp_path, mine="extends: below/base.yaml\n"))
    assert scenario.traffic[0].pcap == str(tmp_path / "below" / "x.pcap")


def test_a_matrix_is_a_run_for_each_combination(tmp_path: Path) -> None:
    matrix = "matrix: {kernel: [debian:6.1, debian:7.3], qsize: [8, 16], mode: [generic]}\n"
    path = write(tmp_path, mine=GOOD + matrix)
    runs = load_scenarios(path)
    assert [run.name for run in runs] == [
        f"mine[kernel={kernel},qsize={qsize},mode=generic]"
        for kernel in ("debian:6.1", "debian:7.3")
        for qsize in (8, 16)
    ]
    assert [run.kernel for run in runs[1:3]] == [("debian:6.1",), ("debian:7.3",)]
    assert {entry.qsize for entry in runs[1].entries} == {16}
    assert {run.steer.mode for run in runs} == {"generic"}
    over = load_scenarios(path, {"kernel": ("debian:5.10",)})
    assert [(run.name, run.kernel) for run in over] == [
        (f"mine[qsize={qsize},mode=generic]", ("debian:5.10",)) for qsize in (8, 16)
    ]


def test_a_combination_that_is_wrong_is_named(tmp_path: Path) -> None:
    (fault,) = told(write(tmp_path, mine=GOOD + "matrix: {cpus: [2, 4]}\n"))
    assert fault == (
        "mine.yaml:4:11: entries[1].cpu: [cpus=2]: there is no CPU 2: the guest has CPUs 0 to 1"
    )


@pytest.mark.parametrize(
    ("matrix", "fault"),
    [
        ("{cpus: []}", "matrix.cpus: found an empty list; allowed: a list"),
        ("{cpus: 4}", "matrix.cpus: found the whole number `4`; allowed: a list"),
        ("{cpu: [4]}", "; or did you mean `cpus`?"),
        ("{mode: [nativ]}", "did you mean `native`?"),
        (
            "{{seed: [{}]}}".format(", ".join(map(str, range(1025)))),
            "matrix: 1025 runs; 1024 at most",
        ),
    ],
)
def test_a_matrix_that_is_none(tmp_path: Path, matrix: str, fault: str) -> None:
    assert any(fault in each for each in told(write(tmp_path, mine=f"{GOOD}matrix: {matrix}\n")))


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (GOOD, True),
        ("extends: base.yaml\n", True),
        ("traffic: 3\n", True),
        ("entries: [\n", True),
        ("a: b\n", False),
        ("- id: x\n  traffic: 3\n", False),
        ("", True),
    ],
)
def test_scenarios_are_told_by_their_keys(tmp_path: Path, text: str, is_one: bool) -> None:
    assert is_scenario(write(tmp_path, mine=text)) is is_one
