"""Halving a line of candidates, around those that cannot be judged; what a flaky answer proves."""

from __future__ import annotations

import itertools
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from harness.bisect.confidence import Tally, Weight, told_apart, turn_risk
from harness.bisect.plan import (
    Mark,
    expected_turns,
    foresee,
    next_probe,
    suspects,
    turns,
    upstream_between,
)

if TYPE_CHECKING:
    from pathlib import Path


def solve(count: int, first_new: int, broken: frozenset[int]) -> tuple[range, list[int]]:
    """Return the suspects among so many candidates, and what was judged on the way."""
    marks = {0: Mark.OLD, count - 1: Mark.NEW}
    asked = []
    while (probe := next_probe(marks)) is not None:
        assert probe not in marks
        asked.append(probe)
        if probe in broken:
            marks[probe] = Mark.SKIP
        else:
            marks[probe] = Mark.NEW if probe >= first_new else Mark.OLD
    return suspects(marks), asked


@pytest.mark.parametrize("count", range(2, 10))
def test_every_skip_pattern_ends_at_the_change(count: int) -> None:
    inner = range(1, count - 1)
    for size in range(len(inner) + 1):
        for broken in map(frozenset, itertools.combinations(inner, size)):
            for first_new in range(1, count):
                found, _ = solve(count, first_new, broken)
                # All that can be known: the change is after the last judged old one before it ...
                low = max(n for n in range(first_new) if n not in broken)
                # ... and no later than the first judged new one
                high = min(n for n in range(first_new, count) if n not in broken)
                assert found == range(low + 1, high + 1), (count, first_new, broken)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9, 33, 34, 50, 64, 65, 66])
def test_as_many_steps_as_was_said(count: int) -> None:
    taken = [len(solve(count, first, frozenset())[1]) for first in range(1, count)]
    assert max(taken) == turns(count - 1)
    assert sum(taken) / len(taken) == pytest.approx(expected_turns(count - 1))


def test_known_gap_is_not_asked() -> None:
    marks = {0: Mark.OLD, 9: Mark.NEW} | dict.fromkeys(range(3, 8), Mark.SKIP)
    while (probe := next_probe(marks)) is not None:
        assert probe in (1, 2, 8)
        marks[probe] = Mark.OLD if probe < 5 else Mark.NEW
    assert suspects(marks) == range(3, 9)


def test_skips_are_left_as_far_as_git_leaves_them(tmp_path: Path) -> None:
    """Git on a line of 40 commits, all of them skipped, goes as far from the middle.

    Of two that are as far from it git takes the one whose hash comes first once something is
    skipped, any before: the hashes are the same each time, and such that both are the same one.
    """
    who = {"NAME": "A", "EMAIL": "a@example.org", "DATE": "2000-01-02T00:00:00Z"}
    named = {f"GIT_{role}_{k}": v for role in ("AUTHOR", "COMMITTER") for k, v in who.items()}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), *arguments]
        env = {**os.environ, **named}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout

    git("init", "--quiet")
    hashes = []
    for number in range(40):
        git("commit", "--quiet", "--allow-empty", "-m", str(number))
        hashes.append(git("rev-parse", "HEAD").strip())
    git("bisect", "start", "--no-checkout", hashes[-1], hashes[0])
    marks = {0: Mark.OLD, 39: Mark.NEW}
    git_asked, asked = [], []
    for _ in range(12):
        git_asked.append(hashes.index(git("rev-parse", "BISECT_HEAD").strip()))
        probe = next_probe(marks)
        assert probe is not None
        asked.append(probe)
        git("bisect", "skip")
        marks[git_asked[-1]] = Mark.SKIP
    assert [abs(2 * each - 39) for each in asked] == [abs(2 * each - 39) for each in git_asked]


def test_the_likelier_next_one_is_foreseen() -> None:
    versions = [1, 2, 3, 4, 5, 50, 51, 52, 53]

    def weigh(a: int, b: int) -> float:
        return versions[b] - versions[a]

    marks = {0: Mark.OLD, 8: Mark.NEW}
    assert next_probe(marks) == 4
    assert foresee(marks, 4, weigh) == next_probe({**marks, 4: Mark.OLD}) == 6
    assert foresee({0: Mark.OLD, 2: Mark.NEW}, 1, weigh) is None


@pytest.mark.parametrize(
    ("old", "new", "between"),
    [
        ((6, 12, 117), (6, 16, 3), ["6.13", "6.14", "6.15", "6.16"]),
        ((6, 18, 15), (7, 2, 6), ["6.19", "7.0", "7.1", "7.2"]),
        ((4, 19, 0), (5, 1, 0), ["4.20", "5.0", "5.1"]),
        ((6, 12, 1), (6, 12, 9), []),
    ],
)
def test_upstream_releases_between(
    old: tuple[int, int, int], new: tuple[int, int, int], between: list[str]
) -> None:
    assert upstream_between(old, new) == between


# Confidence


def test_arithmetic_of_a_few_runs() -> None:
    # Ends of which nothing is known say nothing
    assert Weight(Tally(0, 3), Tally(), Tally()).chance_with == 0.5
    # 8 of 8 and 0 of 8: the next run shows it with 9/10, or with 1/10
    weight = Weight(Tally(1, 1), Tally(8, 8), Tally(0, 8))
    assert weight.like_with == pytest.approx(0.9)
    assert weight.like_without == pytest.approx(0.1)
    assert weight.chance_with == pytest.approx(0.9)
    assert weight.settle(0.05) is None
    assert Weight(Tally(3, 3), Tally(8, 8), Tally(0, 8)).settle(0.01) is True
    assert Weight(Tally(0, 3), Tally(8, 8), Tally(0, 8)).settle(0.01) is False
    told = "\n".join(weight.lines())
    assert "1 of 1 runs showed it: likelihood 0.9 if like the end with it (8 of 8), 0.1" in told
    assert "chance of the contrary 0.1" in told


def test_ends_that_are_alike() -> None:
    assert told_apart(Tally(8, 8), Tally(0, 8), 0.01) is True
    assert told_apart(Tally(8, 30), Tally(0, 8), 0.01) is False
    assert told_apart(Tally(30, 60), Tally(31, 60), 0.1) is False
    assert told_apart(Tally(200, 200), Tally(200, 200), 0.05) is None


def test_turns_share_the_risk() -> None:
    assert turn_risk(0.99, 64) == pytest.approx(0.01 / 6)
    assert turn_risk(0.9, 1) == pytest.approx(0.1)
