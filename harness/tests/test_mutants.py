"""Mutants: bugs put into a source, the tree's twin, and what is made of the cases' verdicts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

import harness.mutants.cli
import harness.mutants.trial
from harness.errors import LabError, UserError
from harness.kernels.build import BuildFailed, Built
from harness.kernels.trees import prune_trees
from harness.mutants.cli import mutants
from harness.mutants.plan import FILE, Mutant, load_mutants
from harness.mutants.trial import Trial, answer, run_trial
from harness.mutants.twin import CPUMAP, twin_of
from harness.paths import REPO
from harness.tests.matrix.tools import NEW, ended

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCE = """\
#define CPU_MAP_BULK_SIZE 8

static int limit(int
		qsize)
{
	if (qsize >
			16384)
		return -EOVERFLOW;
	return 0;
}

struct xdp_bulk_queue *
other(void)
{
	return limit(1) + limit(1);
}
"""
LIST = """\
- name: limit-one-more
  in: limit
  code: qsize > 16384
  becomes: qsize > 16385
  caught_by: map_update
- name: no-such-code
  in: other
  code: qsize > 16384
  becomes: "0"
- name: bulk-of-4
  code: CPU_MAP_BULK_SIZE 8
  becomes: CPU_MAP_BULK_SIZE 4
- name: nobody-sees-it
  in: other
  code: return
  becomes: return 0 +
  unseen: >-
    It is
    the same.
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))


def mutant(**parts: str) -> Mutant:
    return Mutant.model_validate({"name": "one", "becomes": "", **parts})


def test_code_is_found_whatever_its_white_space() -> None:
    changed = mutant(**{"in": "limit", "code": "qsize > 16384", "becomes": "0"}).apply(SOURCE)
    assert changed == SOURCE.replace("qsize >\n\t\t\t16384", "0")


def test_code_is_looked_for_in_its_function_only() -> None:
    assert mutant(**{"in": "other", "code": "return -EOVERFLOW;"}).apply(SOURCE) is None
    assert mutant(**{"in": "limit", "code": "limit(1) +"}).apply(SOURCE) is None
    assert mutant(**{"in": "gone", "code": "return"}).apply(SOURCE) is None
    assert mutant(**{"in": "other", "code": "limit(1) +"}).apply(SOURCE) is not None


def test_code_that_is_there_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"mutant one: .* more than once, in the lines 8, 9"):
        mutant(**{"in": "limit", "code": "return"}).apply(SOURCE)


def test_what_is_wrong_with_a_list_is_told_by_line(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(f"{LIST}- name: bulk-of-4\n  code: a\n  becomes: b\n  caught_by: gro and\n")
    with pytest.raises(UserError) as caught:
        load_mutants(wrong)
    assert re.search(r"wrong\.yaml:23:14: \S*caught_by: .*pytest's -k", str(caught.value))
    wrong.write_text(f"{LIST}- name: bulk-of-4\n  code: a\n  becomes: b\n")
    with pytest.raises(UserError, match=r"wrong\.yaml:20:9: .*`bulk-of-4` is taken already"):
        load_mutants(wrong)


def test_each_mutant_of_ours_changes_something_and_names_cases_that_there_are() -> None:
    cases = [path.name for path in (REPO / "cases").glob("test_*.py")]
    for each in load_mutants(FILE):
        assert each.code.split() != each.becomes.split(), each.name
        for word in re.findall(r"\w+", each.caught_by or ""):
            assert word in ("or", "and", "not") or any(word in case for case in cases), each.name


def make_tree(where: Path) -> Path:
    (where / "kernel/bpf").mkdir(parents=True)
    (where / ".git").mkdir()
    (where / CPUMAP).write_text(SOURCE)
    (where / "Makefile").write_text("all:\n")
    (where / "link").symlink_to("Makefile")
    return where


def test_a_twin_may_be_changed_and_the_tree_stays(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "linux")
    with twin_of(tree) as twin:
        place = twin
        assert (twin / "Makefile").samefile(tree / "Makefile")
        assert (twin / CPUMAP).stat().st_mtime_ns == (tree / CPUMAP).stat().st_mtime_ns
        assert (twin / "link").is_symlink()
        assert not (twin / ".git").exists()
        (twin / CPUMAP).write_text("broken")
        assert [tree.directory for tree in prune_trees(keep=0, dry_run=True)] == []
    assert (tree / CPUMAP).read_text() == SOURCE
    assert not place.exists()
    with twin_of(tree) as twin:
        assert twin == place


class Bench:
    """Builds nothing, and has verdicts ready for what the source says."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tree = make_tree(tmp_path / "linux")
        self.file = tmp_path / "mutants.yaml"
        self.file.write_text(LIST)
        self.judge: Callable[[str], Trial] = lambda _: Trial({}, {}, 7)
        self.expressions: list[str | None] = []
        self.stops: list[bool] = []
        self._source = ""
        monkeypatch.setattr(harness.mutants.cli, "build_kernel", self._build)
        monkeypatch.setattr(harness.mutants.cli, "run_trial", self._run)

    def _build(self, source: Path, _fragments: object, output: Path) -> Built:
        self._source = (source / CPUMAP).read_text()
        return Built(output, ())

    def _run(
        self, spec: str, expression: str | None, _workers: int | None, log: Path, *, stop: bool
    ) -> Trial:
        assert spec.startswith("path:")
        assert log.name == "mutants.log"
        self.expressions.append(expression)
        self.stops.append(stop)
        return self.judge(self._source)

    def run(self, *args: str) -> Result:
        options = ["--file", str(self.file), "--tree", str(self.tree)]
        return CliRunner().invoke(mutants, [*options, *args])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_the_plan_says_what_a_source_can_have(bench: Bench) -> None:
    done = bench.run("--plan")
    assert [line.split() for line in done.output.splitlines()] == [
        ["to", "try", "limit-one-more"],
        ["absent", "no-such-code"],
        ["to", "try", "bulk-of-4"],
        ["unseen", "nobody-sees-it"],
    ]
    assert bench.expressions == []


def test_a_mutant_is_caught_when_a_case_fails(bench: Bench, tmp_path: Path) -> None:
    red = {"cases/test_a.py::test_b[x]": "it was 1"}
    bench.judge = lambda source: Trial({} if source == SOURCE else red, {}, 3)
    out = tmp_path / "out.json"
    done = bench.run("--json", str(out))
    assert done.exit_code == 0, done.output
    assert re.search(r"^caught +limit-one-more +test_b\[x\]: it was 1", done.output, re.MULTILINE)
    assert re.search(r"^unseen +nobody-sees-it +It is the same\.$", done.output, re.MULTILINE)
    assert done.output.endswith("2 caught, 1 absent, 1 unseen\n")
    assert bench.expressions == [None, "map_update", None]  # the first is the good kernel's
    assert bench.stops == [False, True, True]
    told = {each["name"]: each["outcome"] for each in json.loads(out.read_text())}
    assert told["limit-one-more"] == "caught"
    assert told["no-such-code"] == "absent"


def test_a_mutant_that_all_cases_pass_has_survived(bench: Bench) -> None:
    done = bench.run("limit-one-more")
    assert done.exit_code == 1
    assert re.search(r"^survived +limit-one-more +7 cases pass", done.output, re.MULTILINE)
    assert bench.expressions == ["(map_update)", "map_update"]


def test_all_cases_are_run_if_that_is_wanted(bench: Bench) -> None:
    assert bench.run("limit-one-more", "--all").exit_code == 1
    assert bench.expressions == [None, None]


@pytest.mark.parametrize(
    ("trial", "told"),
    [
        (Trial({}, {"cases/test_a.py::test_b": "no boot"}, 3), "test_b: no boot"),
        (Trial({}, {}, 0), "no case runs on this kernel"),
    ],
)
def test_there_may_be_no_verdict_on_a_mutant(bench: Bench, trial: Trial, told: str) -> None:
    bench.judge = lambda source: Trial({}, {}, 3) if source == SOURCE else trial
    done = bench.run("limit-one-more")
    assert done.exit_code == 125
    assert re.search(f"^invalid +limit-one-more +{told}", done.output, re.MULTILINE)


def test_a_kernel_that_fails_as_it_is_says_nothing_of_its_mutants(bench: Bench) -> None:
    bench.judge = lambda _: Trial({"cases/test_a.py::test_b": "always"}, {}, 3)
    done = bench.run("limit-one-more")
    assert isinstance(done.exception, LabError)
    assert "not broken does not pass: test_b: always" in str(done.exception)
    assert len(bench.expressions) == 1


def test_a_mutant_that_does_not_build_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(source: Path, _fragments: object, output: Path) -> Built:
        if (source / CPUMAP).read_text() != SOURCE:
            raise BuildFailed("no", errors=("cpumap.c:1: error: x",), log=output / "build.log")
        return Built(output, ())

    monkeypatch.setattr(harness.mutants.cli, "build_kernel", build)
    done = bench.run("limit-one-more")
    assert done.exit_code == 125
    assert re.search(r"^unbuilt +limit-one-more +cpumap\.c:1: error: x", done.output, re.MULTILINE)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("gone",), "there is no mutant gone"),
        (("--source", "debian:7.3"), "--tree or --source"),
        (("--json", "nowhere/out.json"), "there is no directory nowhere"),
    ],
)
def test_a_wrong_request_is_refused(bench: Bench, args: tuple[str, ...], message: str) -> None:
    done = bench.run(*args)
    assert message in f"{done.output}{done.exception}"
    assert done.exit_code != 0
    assert bench.expressions == []


class Ran:
    """What pytest left: results, an error, an interruption."""

    def __init__(self, *, interrupted: bool = False) -> None:
        self.interrupted = interrupted
        self.ended = [ended("test_a.py::test_ok", NEW, "pass")]
        self.error: LabError | None = None
        self.options: list[str] = []

    def results(self) -> list[object]:
        return list(self.ended)

    def run(self, monkeypatch: pytest.MonkeyPatch, *, stop: bool) -> dict[str, object] | None:
        def run_pytest(*_: object, more: list[str], **__: object) -> LabError | None:
            self.options = more
            return self.error

        monkeypatch.setattr(harness.mutants.trial, "run_pytest", run_pytest)
        monkeypatch.setattr(harness.mutants.trial, "Collector", lambda _: self)
        return answer({"spec": NEW, "expression": None, "workers": 1, "stop": stop})


def test_a_trial_tells_what_failed_and_what_has_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = Ran(interrupted=True)  # which is what pytest calls it when it stops at a failure
    ran.ended += [
        ended("test_b.py::test_one", NEW, "fail", "it was 1\nassert 1 == 2"),
        ended("test_b.py::test_two", NEW, "crash", "oops"),
        ended("test_b.py::test_three", NEW, "invalid", "no boot"),
        ended("test_b.py::test_four", NEW, "known", "uaf"),
        ended("test_b.py::test_five", NEW, "skip", "since 6.15"),
    ]
    assert ran.run(monkeypatch, stop=True) == {
        "error": None,
        "red": {"cases/test_b.py::test_one": "it was 1", "cases/test_b.py::test_two": "oops"},
        "unsure": {"cases/test_b.py::test_three": "no boot"},
        "green": 2,
    }
    assert "-x" in ran.options


def test_a_trial_that_somebody_stops_has_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ran(interrupted=True).run(monkeypatch, stop=False) is None


def test_a_trial_that_pytest_refuses_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran()
    ran.error = UserError("no case fits")
    told = ran.run(monkeypatch, stop=False)
    assert told is not None
    assert told["error"] == "no case fits"
    assert "-x" not in ran.options


def test_a_trial_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no case fits"):
        run_trial(NEW, "no_case_is_called_so", 1, tmp_path / "log", stop=True)
    assert "deselected" in (tmp_path / "log").read_text()
    with pytest.raises(LabError, match="could not be run"):
        run_trial("no such spec", None, 1, tmp_path / "log", stop=True)
    assert "no such spec" in (tmp_path / "log").read_text()
