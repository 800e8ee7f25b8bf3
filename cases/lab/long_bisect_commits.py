"""git bisect on a real tree: a dozen commits on a Debian linux-source, one breaks cpumap.c.

It builds a kernel about ten times, which takes half an hour on two cores: pytest collects this file
only if it is named, `pytest cases/lab/long_bisect_commits.py`. What it unpacks and builds stays in
the cache, so that the second time is quicker.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_tools import UNMERGED

from harness import deb
from harness.apt import Archive
from harness.landing import land_directory
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

SERIES = "7.3"
CPUMAP = "kernel/bpf/cpumap.c"
SCENARIO = """\
name: exact-qsize
description: a ring that its kthread does not empty takes as many frames as it has places
cpus: 4
entries: [{cpu: 2, qsize: 24}]
traffic: [{frames: 64}]
timeline:
  - {at: 0, do: hold, cpu: 2}
  - {after: offered, do: release, cpu: 2}
expect: {delivered: 24, dropped: 40}
"""
MERGES, PASSES = "gro_receive_skb(&rcpu->gro, skbs[i]);", "netif_receive_skb(skbs[i]);"
MERGING = "cpumap: have segments merged"
BREAKS, HALVES = "ptr_ring_init(rcpu->queue, value->qsize, gfp)", "value->qsize / 2"
CULPRIT = "cpumap: have rings take less memory"


def git(tree: Path, *arguments: str) -> str:
    named = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "gc.auto=0")
    command = ["git", "-C", str(tree), *named, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def unpack(part: Path) -> None:
    """Fill a directory with a repository of the newest source package."""
    archive = Archive()
    package = archive.packages(f"linux-source-{SERIES}")[-1]
    (file,) = archive.download([package], part / "debs", what=package.name)
    deb.unpack(file, part)
    (tarball,) = part.glob("usr/src/*.tar.xz")
    tree = part / "linux"
    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "--strip-components=1", "-xf", tarball], check=True)
    git(tree, "init", "--quiet", "--initial-branch=main")
    git(tree, "add", "--all", "--force")
    git(tree, "commit", "--quiet", "-m", f"linux {package.version}")
    git(tree, "tag", "base")


def commit(tree: Path, subject: str, old: str, new: str) -> None:
    file = tree / CPUMAP
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    git(tree, "commit", "--quiet", "-a", "-m", subject)


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """A kernel tree with a dozen commits after the tag `base`; the ninth breaks, the sixth no C."""
    tree = land_directory(cache_dir("bisect-test") / SERIES, unpack) / "linux"
    git(tree, "bisect", "reset")
    git(tree, "checkout", "--quiet", "--force", "-B", "main", "base")
    for number in range(1, 13):
        if number == 6:
            commit(tree, "cpumap: a slip", BREAKS, BREAKS.replace("gfp)", "gfp"))
        elif number == 7:
            commit(tree, "cpumap: mend the slip", BREAKS.replace("gfp)", "gfp"), BREAKS)
        elif number == 9:
            commit(tree, CULPRIT, BREAKS, BREAKS.replace("value->qsize", HALVES))
        else:
            commit(tree, f"cpumap: remark {number}", "\n", f"\n/* {number} */\n")
    yield tree
    assert git(tree, "symbolic-ref", "--short", "HEAD") == "main"


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "exact.yaml"
    path.write_text(SCENARIO)
    return path


def lab(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("cpumap-lab")), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.timeout(7200)
def test_the_commit_is_found(tree: Path, scenario: Path) -> None:
    ended = lab("bisect", scenario, "--tree", tree, "--good", "base", "--bad", "main", cwd=tree)
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0
    assert f"    {CULPRIT}" in ended.stdout
    assert "skip  (skip, 0.0 s: does not build: " in ended.stdout
    log = ended.stdout[ended.stdout.index("git bisect start") :]
    assert "# first bad commit" in log
    assert "#   fail: " in log


@pytest.mark.timeout(7200)
def test_commits_are_searched_between_the_packages_found(tree: Path, tmp_path: Path) -> None:
    """Debian's builds say 6.12 to 6.16; the tree has these tags, and the commits between them."""
    path = tmp_path / "unmerged.yaml"
    path.write_text(UNMERGED)
    git(tree, "checkout", "--quiet", "--detach", "base")
    commit(tree, "cpumap: hand skbs on one by one", MERGES, PASSES)
    git(tree, "tag", "--force", "v6.12")
    commit(tree, "cpumap: a remark", "\n", "\n/* one */\n")
    commit(tree, MERGING, PASSES, MERGES)
    commit(tree, "cpumap: another remark", "\n", "\n/* two */\n")
    git(tree, "tag", "--force", "v6.16")
    git(tree, "checkout", "--quiet", "main")
    ends = ("--good", "debian:6.12", "--bad", "debian:6.16", "--cached")
    ended = lab("bisect", path, *ends, "--tree", tree, cwd=tree)
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0
    assert "first bad: 6.16" in ended.stdout
    packages, commits = ended.stdout.index("first bad: "), ended.stdout.index("git bisect start")
    assert packages < commits
    assert f"    {MERGING}" in ended.stdout


@pytest.mark.timeout(7200)
def test_git_runs_the_steps(tree: Path, scenario: Path) -> None:
    git(tree, "bisect", "start", "main", "base")
    try:
        step = Path(sys.executable).with_name("cpumap-lab")
        said = git(tree, "bisect", "run", str(step), "bisect-step", str(scenario))
    finally:
        git(tree, "bisect", "reset")
    print(said)
    assert "is the first bad commit" in said
    assert f"    {CULPRIT}" in said


@pytest.mark.timeout(3600)
def test_a_step_that_changes_one_file(tree: Path, scenario: Path) -> None:
    """How long it took is printed: three minutes are the aim."""
    lab("bisect-step", scenario, cwd=tree)
    commit(tree, "cpumap: one more remark", "\n", "\n/* one more */\n")
    try:
        start = time.monotonic()
        ended = lab("bisect-step", scenario, cwd=tree)
        print(f"{time.monotonic() - start:.0f} s: {ended.stdout}")
    finally:
        git(tree, "reset", "--quiet", "--hard", "HEAD~1")
    assert ended.returncode == 1


@pytest.mark.timeout(3600)
def test_a_broken_lab_stops_git(
    tree: Path, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUMAP_LAB_QEMU", "/nonexistent/qemu")
    ended = lab("bisect-step", scenario, cwd=tree)
    assert ended.returncode == 129, ended.stdout + ended.stderr
