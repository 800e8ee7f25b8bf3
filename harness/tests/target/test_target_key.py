"""`target` in scenarios and `--target`: what goes with it, and where it runs."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from click.testing import CliRunner

from harness.bisect.subject import make_subject
from harness.cli import cpumap_lab
from harness.errors import NotOnTarget, TargetFailed, UserError
from harness.scenario.again import read_run
from harness.scenario.load import load_scenario, load_scenarios
from harness.scenario.runner import run_scenario
from harness.scenario.workshops import Workshops
from harness.target.lab import TargetLab
from harness.tests.test_scenario_load import GOOD, faults, load, only_fault
from harness.tests.test_scenario_runner import Lab, cache, lab, scenario  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from harness.lab import Lab as GuestLab
    from harness.phases import Phases

pytest_plugins = ["pytester"]

ADDRESS = "ssh://root@192.0.2.7"
PLAIN = GOOD.replace("kernel: debian:7.3\n", "")
ON_TARGET = f"{PLAIN}target: {ADDRESS}\n"
AT_0 = "timeline: [{at: 0, cpu: 2, do: "


def test_it_runs_there_by_veth(tmp_path: Path) -> None:
    there = load(tmp_path, ON_TARGET)
    assert there.specs == (ADDRESS,)
    assert there.expand().injector == "veth"
    assert load(tmp_path, f"{ON_TARGET}injector: live\n").expand().injector == "live"
    assert load(tmp_path, GOOD).expand().injector == "auto"


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("kernel: debian:7.3", "kernel: a target runs the kernel that it has: leave it out, or"),
        ("append: slub_debug", "append: a target has booted already"),
        ("memory_mib: 1024", "memory_mib: a target has the memory that it has"),
        ("nodes: 2", "nodes: a target has the NUMA nodes that it has"),
        ("spare_cpus: 1", "spare_cpus: no CPU is plugged into a target"),
        ("offline: [3]", "offline: the CPUs of a target stay online"),
        ("launcher: virtme-ng", "launcher: a target has booted already"),
        ("ssh: true", "ssh: a target has an sshd already"),
        ("injector: tap", "injector: no wire leads to a target: say `veth` or `live`"),
        ("injector: socket", "injector: no wire leads to a target: say `veth` or `live`"),
        ("nics: [{queues: 2}]", "nics[0].queues: frames come by veth pairs there"),
        (f"{AT_0}hold}}, {{cpu: 2, do: release}}]", "timeline[0].do: a target's CPUs are not ours"),
        (f"{AT_0}offline}}]", "timeline[0].do: the CPUs of a target stay online"),
    ],
)  # fmt: skip
def test_what_a_target_cannot_do(tmp_path: Path, more: str, fault: str) -> None:
    assert fault in faults(tmp_path, f"{ON_TARGET}{more}\n")[0]


def test_steps_with_nics(tmp_path: Path) -> None:
    steps = "timeline: [{do: unplug, nic: 0, after: rest}, {do: link_down, nic: 0, after: rest}]"
    told = [each for each in faults(tmp_path, f"{ON_TARGET}{steps}\n") if ".do" in each]
    assert "timeline[0].do: nothing is taken out of a target" in told[0]
    assert "timeline[1].do: frames come by veth pairs there" in told[1]


def test_an_address_that_is_none_is_told_without_its_password(tmp_path: Path) -> None:
    assert "target: 'host' is no target: write ssh://" in only_fault(
        tmp_path, f"{PLAIN}target: host\n"
    )
    fault = only_fault(tmp_path, f"{PLAIN}target: ssh://root:hunter2@host\n")
    assert "target: a target's address has no password in it: log in with a key" in fault
    assert "hunter2" not in fault


def test_the_option_takes_the_place_of_kernels(tmp_path: Path) -> None:
    there = load(tmp_path, GOOD, target=ADDRESS, kernel=None)
    assert there.specs == (ADDRESS,)
    file = tmp_path / "matrix.yaml"
    file.write_text(f"{GOOD}matrix: {{kernel: [debian:6.1, debian:7.3], qsize: [8, 64]}}\n")
    runs = load_scenarios(file, {"target": ADDRESS, "kernel": None})
    assert [(each.name, each.specs) for each in runs] == [
        ("matrix[qsize=8]", (ADDRESS,)),
        ("matrix[qsize=64]", (ADDRESS,)),
    ]


@pytest.mark.parametrize(
    "option",
    [["--kernel", "debian:7.3"], ["--append", "quiet"], ["--launcher", "qemu"], ["--locked"]],
)
def test_options_that_are_for_guests(tmp_path: Path, option: list[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(PLAIN)
    done = CliRunner().invoke(cpumap_lab, ["run", str(file), "--target", ADDRESS, *option])
    assert done.exit_code == 2
    assert f"--target has a kernel of its own, which runs already: no {option[0]}" in done.stderr
    assert f"leave out {option[0]}, or --target" in done.stderr


def test_no_lock_holds_a_target(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(ON_TARGET)
    done = CliRunner().invoke(cpumap_lab, ["run", str(file), "--locked"])
    assert done.exit_code == 2
    assert f"mine runs on {ADDRESS}, and --locked is for kernels in guests" in done.stderr


def test_no_target_is_bisected(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(ON_TARGET)
    with pytest.raises(UserError, match="which has a kernel of its own"):
        make_subject(str(file), cast("Phases", None))


def test_a_run_there_is_kept_and_read_back(lab: Lab) -> None:  # noqa: F811
    lab.qemu = None  # type: ignore[assignment]
    lab.guest.veths = {0: SimpleNamespace()}  # type: ignore[attr-defined]
    outcome = run_scenario(lab, scenario(target=ADDRESS), ADDRESS)  # type: ignore[arg-type]
    assert outcome.record.kernel.spec == ADDRESS
    assert outcome.record.qemu.version is None
    kept = outcome.record.artifacts
    assert kept is not None
    told = json.loads((kept / "run.json").read_text())
    assert told["scenario"]["target"] == ADDRESS
    assert "kernel" not in told["scenario"]
    assert read_run(kept).scenario.specs == (ADDRESS,)
    assert load_scenario(kept / "scenario.yaml").specs == (ADDRESS,)
    assert lab.asked.cpus == 4


def test_what_a_target_turns_out_not_to_have_is_skipped(lab: Lab) -> None:  # noqa: F811
    lab.no_guest = NotOnTarget(f"{ADDRESS} has no 4 CPUs (2 are online)")
    record = run_scenario(lab, scenario(target=ADDRESS), ADDRESS).record  # type: ignore[arg-type]
    assert (record.verdict, record.reasons) == (
        "skip",
        (f"{ADDRESS} has no 4 CPUs (2 are online)",),
    )


def test_one_workshop_for_guests_and_one_for_each_target() -> None:
    ended: list[str] = []
    guests = cast("GuestLab", SimpleNamespace(close=lambda: ended.append("guests")))
    with Workshops(lambda: guests) as workshops:
        there = workshops.at(ADDRESS)
        assert isinstance(there, TargetLab)
        assert str(there.address) == ADDRESS
        assert workshops.at(ADDRESS) is there
        assert workshops.at("ssh://other") is not there
        assert workshops.at(None) is workshops.at(None) is guests
    assert ended == ["guests"]


def test_a_target_that_cannot_be_reached_ends_the_session_with_one_message(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(pytester.path / "cache"))
    monkeypatch.setenv("HOME", str(pytester.path))
    pytester.makepyfile(
        test_it="""
        def test_one(lab): ...
        def test_two(lab): ...
        """
    )
    result = pytester.runpytest("--target", "ssh://root@127.0.0.1:1")
    assert result.ret == TargetFailed.exit_status
    told = result.stdout.str() + result.stderr.str()
    assert told.count("ssh://root@127.0.0.1:1 cannot be reached at port 1: Connection refused") == 1
    assert "is the machine up" in told
    result.assert_outcomes()
