"""Coverage: a file built with gcov here, what gcov tells of it, and what is made of that."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import harness.coverage.cli
from harness.coverage.cli import coverage
from harness.coverage.counters import merge, notes_of
from harness.coverage.lcov import to_lcov
from harness.coverage.result import Coverage, Share, branches_of, lines_of, read_coverage
from harness.coverage.unreached import Reason, load_reasons, outdated, why_unreached
from harness.errors import KernelNotFound, LabError, ToolMissing
from harness.kernels import KernelImage

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """\
static inline int pick(int way)
{
	return way + 1;
}

int main(int argc, char **argv)
{
	if (argc > 2)
		return 5;
	if (argc > 1)
		return pick(3);
	return 0;
}
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output directory in which "cpumap.c" was built to be counted."""
    root = tmp_path_factory.mktemp("build")
    home = root / "kernel/bpf"
    home.mkdir(parents=True)
    (home / "cpumap.c").write_text(SOURCE)
    name = "kernel/bpf/cpumap"
    for step in (["-c", "-o", f"{name}.o", f"{name}.c"], ["-o", "program", f"{name}.o"]):
        subprocess.run(["gcc", "--coverage", *step], cwd=root, check=True)
    return root


def run(build: Path, into: Path, *args: str) -> Path:
    """Run the program, and return its counters."""
    subprocess.run([build / "program", *args], check=False)
    counters = into / f"{len(args)}.gcda"
    (build / "kernel/bpf/cpumap.gcda").rename(counters)
    return counters


def measured(build: Path, into: Path, *runs: tuple[str, ...]) -> Coverage:
    """Run the program some times, and return what all runs together reached."""
    files = [run(build, into, *args) for args in runs]
    summed = into / "summed"
    summed.mkdir()
    return read_coverage(merge(files, build / "kernel/bpf/cpumap.gcno", summed))


def kernel(build: Path) -> KernelImage:
    image = build / "arch/x86/boot/bzImage"
    return KernelImage("path:k", "7.3", "7.3", image, image, None, None, "00")


def test_lines_and_branches_are_counted(build: Path, tmp_path: Path) -> None:
    found = measured(build, tmp_path, ())
    unreached = {line.text: line.function for line in found.unreached}
    assert unreached["return 5;"] == "main"
    assert unreached["return way + 1;"] == "pick"
    assert 0 < branches_of(found.lines).reached < branches_of(found.lines).total


def test_runs_are_added_up(build: Path, tmp_path: Path) -> None:
    found = measured(build, tmp_path, (), ("one",))
    assert [line.text for line in found.unreached] == ["return 5;"]
    (opening,) = (line for line in found.lines if line.text == "if (argc > 2)")
    assert opening.count == 2
    share = lines_of(found.lines)
    assert share.reached == share.total - 1


def test_what_lcov_is_told(build: Path, tmp_path: Path) -> None:
    found = measured(build, tmp_path, (), ("one",))
    lines = to_lcov(found).splitlines()
    share = lines_of(found.lines)
    assert lines[0] == "TN:"
    assert lines[1].endswith("kernel/bpf/cpumap.c")
    assert "DA:9,0" in lines
    assert "DA:8,2" in lines
    assert lines[-3:] == [f"LF:{share.total}", f"LH:{share.reached}", "end_of_record"]
    assert any(line.startswith("FNDA:2,main") for line in lines)
    ways = [line.rpartition(",")[2] for line in lines if line.startswith("BRDA:8,")]
    assert sorted(ways) == ["0", "2"]


def test_counters_of_another_build_are_refused(build: Path, tmp_path: Path) -> None:
    good, bad = run(build, tmp_path), tmp_path / "bad.gcda"
    notes = build / "kernel/bpf/cpumap.gcno"
    content = good.read_bytes()
    for damage, message in (
        (content[:8] + b"????" + content[12:], r"bad\.gcda was counted by another build"),
        (content[:4] + b"????" + content[8:], "gcov-tool"),
    ):
        bad.write_bytes(damage)
        summed = tmp_path / message[:8]
        summed.mkdir()
        with pytest.raises(LabError, match=message):
            merge([good, bad], notes, summed)


def test_missing_tools_are_named(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = run(build, tmp_path)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(ToolMissing, match="no gcov on"):
        read_coverage(counters)


def test_a_kernel_that_counts_nothing_is_refused(build: Path, tmp_path: Path) -> None:
    assert notes_of(kernel(build)) == (build / "kernel/bpf/cpumap.gcno").resolve()
    with pytest.raises(KernelNotFound, match=r"not built to measure(.|\n)*--debug gcov"):
        notes_of(kernel(tmp_path))


def test_why_lines_are_not_reached(build: Path, tmp_path: Path) -> None:
    found = measured(build, tmp_path, (), ("one",))
    given = Reason(function="main", code=("return 5",), why="nobody gives\n two words")
    old = Reason(function="main", code=("return 0",), why="it is reached")
    (line,) = found.unreached
    assert why_unreached(line, [old, given]) == "nobody gives two words"
    assert why_unreached(line, [old]) == ""
    assert outdated(found, [old, given]) == [old]


def test_our_reasons_can_be_read() -> None:
    assert all(reason.why for reason in load_reasons())


def test_shares() -> None:
    assert str(Share(1, 3)) == "1 of 3 (33.3 %)"
    assert Share(0, 0).percent == 100


@pytest.mark.parametrize(("floor", "status"), [("10", 0), ("99", 1)])
def test_the_command(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, floor: str, status: int
) -> None:
    monkeypatch.setattr(harness.coverage.cli, "resolve", lambda _: kernel(build))
    run(build, tmp_path)
    files = {kind: tmp_path / f"out.{kind}" for kind in ("lcov", "json")}
    options = [f"--{kind}={path}" for kind, path in files.items()]
    options += ["--kernel=path:k", "--no-run", f"--counters={tmp_path}", f"--at-least={floor}"]
    done = CliRunner().invoke(coverage, options)
    assert done.exit_code == status, done.output
    assert "nobody has said why" in done.output
    assert "return 5;" in done.output
    assert json.loads(files["json"].read_text())["lines"]["total"] > 4
    assert files["lcov"].read_text().startswith("TN:")


def test_the_command_without_counters(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.coverage.cli, "resolve", lambda _: kernel(build))
    options = ["--kernel=path:k", "--no-run"]
    assert CliRunner().invoke(coverage, options).exit_code == 2
    done = CliRunner().invoke(coverage, [*options, f"--counters={tmp_path}"])
    assert "nothing was counted" in str(done.exception)
