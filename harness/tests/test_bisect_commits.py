"""git bisect, told by a judge that is no kernel; and one step of it, by its exit status."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import harness.bisect.drive
import harness.bisect.subject
import harness.bisect.tree
from harness import cli
from harness.bisect.case_run import names_of
from harness.bisect.drive import tags_of
from harness.bisect.sight import LabBroken, Sight
from harness.errors import CacheError, ToolMissing, UserError
from harness.kernels.build import BuildFailed

SCENARIO = "entries: [{cpu: 1, qsize: 8}]\ntraffic: [{frames: 4}]\n"


class Tree:
    """A work tree whose kernel is one file: what it says is what comes of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commits = 0
        (root / "kernel/bpf").mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        named = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(self.root), *named, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, *texts: str) -> None:
        for text in texts:
            (self.root / "kernel/bpf/cpumap.c").write_text(f"{text}\n{self.commits}\n")
            self.git("add", "--all")
            self.git("commit", "--quiet", "-m", f"{self.commits}: {text}")
            self.git("tag", f"v{self.commits}")
            self.commits += 1


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.yaml").write_text(SCENARIO)
    monkeypatch.chdir(tmp_path)
    return Tree(tmp_path / "linux")


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Judge commits by their content; return what was judged."""
    asked: list[str] = []

    def look(tree: Path, *_: object) -> Sight:
        text = (tree / "kernel/bpf/cpumap.c").read_text().splitlines()[0]
        asked.append(text)
        if text == "fault":
            raise LabBroken("the lab is at fault, not the kernel")
        if text == "typo":
            return Sight(None, "skip", "does not build: error: expected ;")
        return Sight(
            text == "bad", "fail" if text == "bad" else "pass", "too few" * (text == "bad")
        )

    monkeypatch.setattr(harness.bisect.drive, "judge_tree", look)
    monkeypatch.setattr(harness.bisect.tree, "judge_tree", look)
    return asked


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.cpumap_lab, arguments)


def bisect(good: str, bad: str, *more: str) -> Any:
    return run("bisect", "mine.yaml", "--tree", "linux", "--good", good, "--bad", bad, *more)


def test_the_commit_is_found_and_the_tree_put_back(tree: Tree, judged: list[str]) -> None:
    tree.commit(*["good"] * 5, "typo", "good", *["bad"] * 5)
    ended = bisect("v0", "v11")
    assert ended.exit_code == 0, ended.output
    assert "the first bad commit:" in ended.output
    assert "    7: bad" in ended.output
    assert "Bisecting: " in ended.output
    log = ended.output[ended.output.index("git bisect start") :]
    assert "#   fail: too few" in log
    assert tree.git("symbolic-ref", "--short", "HEAD") == "main"
    # What it keeps for a mail is what git takes back
    (path,) = Path("cache").rglob("bisect.log")
    tree.git("bisect", "replay", str(path.absolute()))
    assert "first bad commit" in tree.git("bisect", "log")


def test_a_fix_is_found(tree: Tree, judged: list[str]) -> None:
    tree.commit("bad", "bad", "bad", "good", "good")
    for ends in (("v4", "v0"), ("v0", "v4")):
        ended = bisect(*ends, "--invert", "--restart")
        assert ended.exit_code == 0, ended.output
        assert "the first fixed commit:" in ended.output
        assert "    3: good" in ended.output


def answer(last_old: str, first_new: str) -> Any:
    """What a search among packages comes to."""
    ends = [(SimpleNamespace(upstream=release), None) for release in (last_old, first_new)]
    return SimpleNamespace(last_old=ends[0], first_new=ends[1])


def test_the_tags_between_which_packages_lie(tree: Tree) -> None:
    """Of a stable release its own, or of its series: a mainline tree has no other."""
    tree.commit("good", "good", "bad")
    for tag, rev in (("v6.12", "v0"), ("v6.16", "v1"), ("v6.16.3", "v2")):
        tree.git("tag", tag, rev)
    between = tags_of(tree.root, answer("6.12.117", "6.16.3"), invert=False)
    assert between == ("v6.12", "v6.16.3")
    between = tags_of(tree.root, answer("6.12.117", "6.16.4"), invert=True)
    assert between == ("v6.16", "v6.12")
    with pytest.raises(UserError, match=r"none of the tags v7\.3\.4, v7\.3: "):
        tags_of(tree.root, answer("6.12.117", "7.3.4"), invert=False)


def test_only_skipped_are_left(tree: Tree, judged: list[str]) -> None:
    tree.commit("good", "typo", "typo", "bad")
    ended = bisect("v0", "v3")
    assert ended.exit_code == 125
    assert "any of 3 may be it" in ended.output
    assert tree.git("symbolic-ref", "--short", "HEAD") == "main"


def test_a_broken_lab_stops_it_and_it_goes_on(
    tree: Tree, judged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.commit(*["good"] * 6, *["bad"] * 6)
    asked = vars(harness.bisect.drive)["judge_tree"]

    def fault_once(*arguments: Any) -> Sight:
        if len(judged) == 3:
            judged.append("fault")
            raise LabBroken("the disk is full")
        sight: Sight = asked(*arguments)
        return sight

    monkeypatch.setattr(harness.bisect.drive, "judge_tree", fault_once)
    ended = bisect("v0", "v11")
    assert ended.exit_code == 129
    assert "the same command goes on" in ended.output
    ended = bisect("v0", "v11")
    assert ended.exit_code == 0, ended.output
    assert "    6: bad" in ended.output
    assert len(judged) <= 2 + 4 + 1
    assert tree.git("symbolic-ref", "--short", "HEAD") == "main"


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (("v3", "v0"), "v0 comes before v3"),
        (("v0", "v0"), "are the same commit"),
        (("v0", "v9"), "has no commit `v9`"),
        (("v0", "v1"), "is on the wrong side: it was to show the failure and does not"),
    ],
)
def test_wrong_ends(tree: Tree, judged: list[str], ends: tuple[str, str], told: str) -> None:
    tree.commit("good", "good", "bad", "bad")
    ended = bisect(*ends)
    assert ended.exit_code == 2
    assert told in ended.output
    assert tree.git("symbolic-ref", "--short", "HEAD") == "main"


def test_changed_files_are_not_touched(tree: Tree, judged: list[str]) -> None:
    tree.commit("good", "bad")
    (tree.root / "kernel/bpf/cpumap.c").write_text("mine")
    ended = bisect("v0", "v1")
    assert ended.exit_code == 2
    assert "are changed: M kernel/bpf/cpumap.c" in ended.output
    assert judged == []


def test_a_bisection_of_somebody_elses_is_left_alone(tree: Tree, judged: list[str]) -> None:
    tree.commit("good", "good", "bad")
    tree.git("bisect", "start", "v2", "v0")
    ended = bisect("v0", "v2")
    assert ended.exit_code == 2
    assert "somebody else's" in ended.output
    assert "git bisect start" in tree.git("bisect", "log")


# One step


@pytest.mark.parametrize(
    ("text", "options", "status"),
    [
        ("good", (), 0),
        ("bad", (), 1),
        ("typo", (), 125),
        ("good", ("--invert",), 1),
        ("bad", ("--invert",), 0),
        ("typo", ("--invert",), 125),
        ("fault", (), 129),
        ("fault", ("--invert",), 129),
        ("good", ("--no-such-option",), 129),
        ("good", ("--signature", "("), 129),
    ],
)
def test_exit_status_of_a_step(
    tree: Tree,
    judged: list[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    options: tuple[str, ...],
    status: int,
) -> None:
    tree.commit(text)
    monkeypatch.chdir(tree.root)
    assert run("bisect-step", "../mine.yaml", *options).exit_code == status


def test_step_without_its_subject_or_tree_stops(
    tree: Tree, judged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.commit("good")
    assert run("bisect-step", "mine.yaml").exit_code == 129  # no work tree here
    monkeypatch.chdir(tree.root)
    assert run("bisect-step", "../none.yaml").exit_code == 129
    assert run("bisect-step").exit_code == 129
    monkeypatch.setattr(harness.bisect.subject, "make_subject", _break)
    assert run("bisect-step", "../mine.yaml").exit_code == 129


def _break(*_: object) -> None:
    raise RuntimeError("a bug")


class NoSubject:
    def ask(self, spec: str, root: Path) -> Sight:
        raise AssertionError(spec)


class Silent:
    def begin(self, what: str) -> None: ...

    def end(self) -> None: ...


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BuildFailed("x does not build", errors=("a.c:1: error: b",), log=Path("l")), None),
        (ToolMissing("there is no compiler"), LabBroken),
        (CacheError("the disk is full"), LabBroken),
        (UserError("it is configured in place"), UserError),
    ],
)
def test_whose_fault_a_build_is(
    monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: type[Exception] | None
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(harness.bisect.tree, "build_kernel", fail)
    arguments: Any = (Path(), NoSubject(), Path(), Silent())
    if outcome:
        with pytest.raises(outcome):
            harness.bisect.tree.judge_tree(*arguments)
    else:
        sight = harness.bisect.tree.judge_tree(*arguments)
        assert sight == Sight(None, "skip", "does not build: a.c:1: error: b")


# Names of cases


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a.py::test_x", "test_x"),
        ("a.py::test_x[debian:6.1]", "test_x"),
        ("a.py::test_x[debian:6.1-24]", "test_x[24]"),
        ("a.py::test_x[24-debian:7.3-rt]", "test_x[24]"),
        ("a.py::test_x[native-debian:6.12.90+deb13-cloud-amd64-2-3]", "test_x[native-2-3]"),
        ("a.py::test_x[24]", "test_x[24]"),
        ("a.py::TestX::test_y[path:/a-b/bzImage]", "TestX::test_y"),
    ],
)
def test_a_case_is_the_same_on_any_kernel(given: str, name: str) -> None:
    assert name in names_of(given)
