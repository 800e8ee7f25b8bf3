"""The command line without a machine: statuses, streams, help."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner, Result

from harness import cli, lab
from harness.errors import KernelNotFound, QemuFailed
from harness.report.overview import INCOMPLETE
from harness.report.record import CpuRecord, KernelRecord, QemuRecord, RunRecord
from harness.scenario import runner
from harness.scenario.cli import summarize, worst_status
from harness.scenario.runner import Outcome
from harness.tests.fakes import LATE_S
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

REPO = Path(__file__).resolve().parents[2]
QUICKSTART = str(REPO / "configs" / "quickstart.yaml")


def record(name: str, spec: str, verdict: Verdict) -> RunRecord:
    return RunRecord(
        name=name,
        verdict=verdict,
        reasons=() if verdict is Verdict.PASS else (f"told {verdict}",),
        kernel=KernelRecord(spec),
        qemu=QemuRecord(),
        ledger={"injected": 4, "balanced": True},
        per_cpu=(CpuRecord(0, 4, 0, 4, 4),),
        seed=0,
        duration_s=0.5,
        artifacts=Path("/results/x"),
    )


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, str]]:
    """Replace the runner: the kernel spec names the verdict. Return what was run."""
    runs: list[tuple[Any, str]] = []

    def fake(_: object, scenario: Any, spec: str, watch: Any, root: Path | None) -> Outcome:
        watch.say("pretending")
        watch.advance(1, 2)
        runs.append((scenario, spec))
        word = spec.removeprefix("path:/")
        if word == "none":
            raise KernelNotFound("there is none", remedy="look elsewhere")
        if word == "interrupt":
            raise KeyboardInterrupt
        if word == "bug":
            raise ZeroDivisionError
        if word == "lab":
            raise QemuFailed("it broke")
        return Outcome(record(scenario.name, spec, Verdict(word)), not_kept="disk full")

    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(runner, "run_scenario", fake)
    return runs


def call(*args: str) -> Result:
    return CliRunner().invoke(cli.cpumap_lab, args)


def kernels(*words: str) -> list[str]:
    return [part for word in words for part in ("--kernel", f"path:/{word}")]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["pass"], 0),
        (["pass", "pass"], 0),
        (["fail"], 1),
        (["crash"], 1),
        (["invalid"], 125),
        (["skip"], 125),
        (["pass", "skip"], 125),
        (["invalid", "fail", "pass"], 1),
        (["crash", "skip"], 1),
    ],
)
def test_exit_status(ran: list[Any], words: list[str], status: int) -> None:
    result = call("run", QUICKSTART, *kernels(*words))
    assert result.exit_code == status
    assert [spec for _, spec in ran] == [f"path:/{word}" for word in words]
    assert worst_status(map(Verdict, words)) == status


def test_json_is_all_there_is_on_stdout(ran: list[Any]) -> None:
    result = call("run", QUICKSTART, QUICKSTART, "--json", *kernels("pass", "fail"))
    told = json.loads(result.stdout)
    assert [(run["name"], run["verdict"]) for run in told] == [
        ("quickstart", "pass"),
        ("quickstart", "fail"),
    ] * 2
    assert told[0]["per_cpu"] == [
        {"cpu": 0, "enqueued": 4, "dropped": 0, "kthread": 4, "delivered": 4}
    ]
    assert "note: disk full" in result.stderr


@pytest.mark.parametrize(
    ("last", "status", "said"),
    [
        ("none", 2, "error: there is none\n  remedy: look elsewhere\n"),
        ("interrupt", 130, "interrupted\n"),
        ("bug", 125, "ZeroDivisionError"),
        ("lab", 125, "error: it broke\n"),
    ],
)
def test_json_tells_what_was_run_before_an_error(
    ran: list[Any], last: str, status: int, said: str
) -> None:
    result = call("run", QUICKSTART, "--json", *kernels("pass", last, "pass"))
    assert (result.exit_code, len(ran)) == (status, 2)
    assert [run["verdict"] for run in json.loads(result.stdout)] == ["pass"]
    assert said in result.stderr
    assert ("Traceback" in result.stderr) == (last == "bug")


@pytest.mark.parametrize(("last", "status"), [("skip", 1), ("interrupt", 130)])
def test_reports_for_ci(ran: list[Any], tmp_path: Path, last: str, status: int) -> None:
    junit, ktap = tmp_path / "junit.xml", tmp_path / "out.ktap"
    page = tmp_path / "all.html"
    options = ("--junit", str(junit), "--ktap", str(ktap), "--html", str(page))
    result = call("run", QUICKSTART, *kernels("pass", "fail", last), *options)
    assert result.exit_code == status
    ends = ["not ok 2 path:/fail", *(["ok 3 path:/skip # SKIP told skip"] * (last == "skip"))]
    assert ktap.read_text().splitlines()[-len(ends) - 1 :] == [
        *(f"  {end}" for end in ends),
        "not ok 1 quickstart",
    ]
    assert f"<title>{len(ends) + 1} runs: 1 pass, 1 fail" in page.read_text()
    assert (INCOMPLETE in page.read_text()) == (last == "interrupt")
    cases = list(ElementTree.parse(junit).iter("testcase"))
    assert [case.get("name") for case in cases] == [spec for _, spec in ran][: len(ends) + 1]


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_run(ran: list[Any]) -> None:
    result = call("run", QUICKSTART, "--junit", "/proc/nowhere/junit.xml")
    assert (result.exit_code, ran) == (2, [])
    assert "No such file" in result.stderr


def test_json_of_a_wrong_file_is_an_empty_array(ran: list[Any], tmp_path: Path) -> None:
    result = call("run", str(tmp_path / "none.yaml"), "--json")
    assert (result.exit_code, result.stdout) == (2, "[]\n")


def test_people_get_a_table_and_a_summary(ran: list[Any]) -> None:
    result = call("run", QUICKSTART, *kernels("pass", "fail", "fail"))
    assert result.stdout.count("report: /results/x") == 3
    assert "told fail" in result.stdout
    assert result.stdout.endswith("\n3 runs: 1 pass, 2 fail\n")
    assert "runs" not in call("run", QUICKSTART, *kernels("pass")).stdout


def test_options_go_over_the_file(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    made_by = {"__init__": lambda _, **how: made.append(how["snapshots"])}
    fake = type("Fake", (), made_by | {"close": lambda _: None})
    monkeypatch.setattr(lab, "Lab", fake)
    options = ["--cpus", "8", "--append", "slub_debug=FZPU", "--no-snapshot"]
    assert call("run", QUICKSTART, *options, *kernels("pass")).exit_code == 0
    assert call("run", QUICKSTART, *kernels("pass")).exit_code == 0
    scenario, _ = ran[0]
    assert (scenario.cpus, scenario.append) == (8, "slub_debug=FZPU")
    assert made == [False, True]


def test_a_file_without_a_kernel_wants_one(ran: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("entries: [{cpu: 0, qsize: 1}]\ntraffic: [{frames: 1}]\n")
    result = call("run", str(path))
    assert (result.exit_code, ran) == (2, [])
    assert "mine names no kernel to run on" in result.stderr
    assert call("run", str(path), *kernels("pass")).exit_code == 0


def test_all_files_are_checked_before_any_is_run(ran: list[Any], tmp_path: Path) -> None:
    bad, worse = tmp_path / "bad.yaml", tmp_path / "worse.yaml"
    bad.write_text("cpus: 0\n")
    worse.write_text("")
    result = call("run", QUICKSTART, str(bad), str(worse), *kernels("pass"))
    assert (result.exit_code, ran) == (2, [])
    assert re.findall(r"(\w+)\.yaml:(\d+:\d+):", result.stderr) == [
        ("bad", "1:1"),
        ("bad", "1:1"),
        ("bad", "1:7"),
        ("worse", "1:1"),
    ]


@pytest.mark.parametrize(
    "args",
    [
        ["run"],
        ["check"],
        ["frob"],
        ["run", QUICKSTART, "--cpus", "0"],
        ["run", QUICKSTART, "--cpus", "65"],
        ["run", QUICKSTART, "--kernel", "nonsense"],
        ["run", QUICKSTART, "--append", "a\nb"],
        ["run", QUICKSTART, "--append", "a" * 2000],
        ["run", QUICKSTART, "--frob"],
        ["snapshots", "prune", "--keep", "-1"],
    ],
)
def test_mistakes_on_the_command_line(ran: list[Any], args: list[str]) -> None:
    result = call(*args)
    assert (result.exit_code, result.stdout, ran) == (2, "", [])
    assert "Traceback" not in result.stderr


def test_check(tmp_path: Path) -> None:
    result = call("check", QUICKSTART)
    assert (result.exit_code, result.stdout) == (
        0,
        f"{QUICKSTART}: ok: quickstart: 4000 frames in 1 flow to 4 entries on 4 CPUs, debian:7.3\n",
    )
    bad = tmp_path / "bad.yaml"
    bad.write_text("- x\n")
    result = call("check", QUICKSTART, str(bad))
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {bad}:1:1: found a list of 1" in result.stderr


def test_summary() -> None:
    assert summarize([Verdict.PASS]) == "1 run: 1 pass"
    verdicts = [Verdict.SKIP, Verdict.PASS, Verdict.SKIP]
    assert summarize(verdicts) == "3 runs: 2 skip, 1 pass"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


@pytest.mark.parametrize("path", commands(cli.cpumap_lab), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    result = call(*path, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: cpumap-lab {' '.join(path)}")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_of_commands_says_what_they_say(name: str) -> None:
    module, told = cli.COMMANDS[name]
    command = getattr(importlib.import_module(module), name.replace("-", "_"))
    assert command.name == name
    assert command.get_short_help_str(limit=200) == told
    assert f" {name} {told}" in " ".join(call("--help").stdout.split())


def lab_command(*args: str, **how: Any) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", "from harness.cli import main; main()", *args]
    return subprocess.run(argv, text=True, cwd=REPO, check=False, timeout=LATE_S, **how)


def test_help_imports_next_to_nothing() -> None:
    code = (
        "import sys; from harness.cli import cpumap_lab as c; c(['--help'], standalone_mode=False)"
    )
    check = (
        "; print([m for m in ('pydantic', 'rich', 'scapy', 'yaml', 'qemu') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, cwd=REPO, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_verdict(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    result = lab_command("check", QUICKSTART, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")


def test_streams_that_the_caller_closed() -> None:
    def close() -> None:
        for number in (0, 1, 2):
            os.close(number)

    closed: Callable[[], None] = close
    assert lab_command("check", QUICKSTART, preexec_fn=closed).returncode == 0
    assert lab_command("check", "/none", preexec_fn=closed).returncode == 2
