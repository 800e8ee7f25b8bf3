"""A bisection of packages by a judge that is no kernel: the journal, flaky signals, the ends."""

from __future__ import annotations

import errno
import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from harness.bisect.bench import Bench
from harness.bisect.confidence import turn_risk
from harness.bisect.hunt import Answer, search
from harness.bisect.journal import Journal
from harness.bisect.packages import Candidate, Prefetch
from harness.bisect.plan import Mark
from harness.bisect.sight import LabBroken, Sight, show_of, worst
from harness.errors import BootFailed, CacheError, KernelNotFound, QemuFailed, UserError
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CANDIDATES = [
    Candidate(f"debian:6.12.{n}+deb13-cloud-amd64", f"6.12.{n}+deb13", f"6.12.{n}-1", "cloud", 0)
    for n in range(50)
]
CHANGED = 31
REQUEST = {"subject": "mine.yaml", "content": "1", "old": "6.12.0-1"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path))
    return tmp_path


def number_of(spec: str) -> int:
    return int(spec.split(".")[2].split("+", maxsplit=1)[0])


def plainly(spec: str) -> Sight:
    bad = number_of(spec) >= CHANGED
    return Sight(bad, "fail" if bad else "pass", "it broke" if bad else "")


class Flaky:
    """Shows a failure by chance: often where it is, rarely where it is not."""

    def __init__(self, seed: int, shows: float, noise: float = 0.0) -> None:
        self._rng = random.Random(seed)
        self._rates = {True: shows, False: noise}

    def __call__(self, spec: str) -> Sight:
        shown = self._rng.random() < self._rates[number_of(spec) >= CHANGED]
        return Sight(shown, "fail" if shown else "pass")


def hunt(
    ask: Callable[[str], Sight],
    *,
    candidates: list[Candidate] | None = None,
    request: dict[str, Any] | None = None,
    told: list[str] | None = None,
    **how: Any,
) -> Answer:
    with Journal(request or REQUEST) as journal:
        bench = Bench(ask, journal, **how)

        def tell(candidate: Candidate, finding: object, left: int) -> None:
            if told is not None:
                told.append(candidate.version)

        return search(candidates or CANDIDATES, bench, Prefetch(), tell)


def versions(answer: Answer) -> tuple[str, list[str]]:
    return answer.last_old[0].version, [each.version for each in answer.suspects]


def test_fifty_builds_take_two_ends_and_six_steps() -> None:
    answer = hunt(plainly)
    assert versions(answer) == ("6.12.30-1", ["6.12.31-1"])
    assert answer.visited <= 2 + 6
    assert answer.first_new[1].sight.why == "it broke"


def test_a_fix_is_found_by_turning_round() -> None:
    def fixed(spec: str) -> Sight:
        return Sight(number_of(spec) < CHANGED, "?")

    assert versions(hunt(fixed, new_shows=False)) == ("6.12.30-1", ["6.12.31-1"])


def test_what_cannot_be_judged_is_searched_around() -> None:
    def some(spec: str) -> Sight:
        return Sight(None, "skip") if 28 <= number_of(spec) <= 33 else plainly(spec)

    last, suspects = versions(hunt(some))
    assert last == "6.12.27-1"
    assert suspects == [f"6.12.{n}-1" for n in range(28, 35)]


def test_no_verdict_is_asked_for_twice() -> None:
    asked: list[str] = []

    def starved(spec: str) -> Sight:
        asked.append(spec)
        return Sight(None, "invalid") if asked.count(spec) == 1 else plainly(spec)

    assert versions(hunt(starved)) == ("6.12.30-1", ["6.12.31-1"])
    assert max(map(asked.count, asked)) == 2


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda _: Sight(False, "pass"), r"49.* is on the wrong side: it was to show .*seen: pass"),
        (lambda _: Sight(True, "fail", "too few"), r"12\.0\+.* without .*seen: fail: too few"),
        (lambda _: Sight(None, "skip", "no gro"), r"cannot be an end.*judged: skip: no gro"),
    ],
)
def test_ends_on_the_wrong_side(ask: Callable[[str], Sight], told: str) -> None:
    with pytest.raises(UserError, match=f"(?s){told}"):
        hunt(ask)


# Flaky signals


@pytest.mark.parametrize(("shows", "noise"), [(0.3, 0.0), (0.6, 0.05)])
def test_a_flaky_signal_ends_the_same(shows: float, noise: float) -> None:
    risk = turn_risk(0.99, len(CANDIDATES) - 1)
    ends = {
        versions(hunt(Flaky(seed, shows, noise), risk=risk, request={"seed": seed}))[1][0]
        for seed in range(12)
    }
    assert ends == {"6.12.31-1"}


class Forgetful:
    """A journal that keeps nothing."""

    def runs_of(self, _: str) -> tuple[Sight, ...]:
        return ()

    def note(self, *_: object) -> None: ...


@pytest.mark.parametrize(("shows", "noise"), [(1, 0), (0.6, 0), (0.3, 0), (0.15, 0), (0.6, 0.05)])
def test_wrong_turns_are_as_rare_as_asked(shows: float, noise: float) -> None:
    risk, tries, wrong = 0.02, 600, 0
    journal: Any = Forgetful()
    for seed in range(tries):
        bench = Bench(Flaky(seed, shows, noise), journal, risk=risk)
        bench.judge_ends(CANDIDATES[0].spec, CANDIDATES[49].spec, lambda _: None)
        for number, mark in ((CHANGED - 1, Mark.OLD), (CHANGED, Mark.NEW)):
            wrong += bench.judge(CANDIDATES[number].spec).mark is not mark
    assert wrong / (2 * tries) <= risk


def test_one_run_each_is_not_enough_for_it() -> None:
    ends = set()
    for seed in range(12):
        try:
            ends.add(versions(hunt(Flaky(seed, 0.5), request={"seed": seed}))[1][0])
        except UserError:
            ends.add("refused")
    assert len(ends) > 1


def test_a_signal_that_never_shows_is_refused() -> None:
    with pytest.raises(UserError, match=r"0 of 250 runs showed it"):
        hunt(lambda _: Sight(False, "pass"), risk=0.01)


def test_ends_that_are_alike_are_refused() -> None:
    rng = random.Random(1)

    def alike(_: str) -> Sight:
        return Sight(rng.random() < 0.8, "?")

    with pytest.raises(UserError, match="wrong side"):
        hunt(alike, risk=0.01)


# The journal


def test_it_goes_on_where_it_was_cut_off() -> None:
    asked: list[str] = []

    def cut_off(spec: str) -> Sight:
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append(spec)
        return plainly(spec)

    with pytest.raises(KeyboardInterrupt):
        hunt(cut_off)
    more: list[str] = []

    def on(spec: str) -> Sight:
        more.append(spec)
        return plainly(spec)

    assert versions(hunt(on)) == ("6.12.30-1", ["6.12.31-1"])
    assert not set(asked) & set(more)
    assert len(asked) + len(more) <= 8
    assert versions(hunt(_never)) == ("6.12.30-1", ["6.12.31-1"])


def _never(spec: str) -> Sight:
    raise AssertionError(spec)


def test_flaky_runs_are_resumed_one_by_one() -> None:
    risk, whole = turn_risk(0.95, 49), Flaky(3, 0.5)
    expected = versions(hunt(whole, risk=risk, request={"seed": 3}))
    broken, runs = Flaky(3, 0.5), 0

    def fragile(spec: str) -> Sight:
        nonlocal runs
        runs += 1
        if runs % 7 == 0:
            raise LabBroken("the power went")
        return broken(spec)

    for _ in range(200):
        try:
            answer = hunt(fragile, risk=risk, request={"seed": "again"})
        except LabBroken:
            continue
        assert versions(answer) == expected
        return
    raise AssertionError("it never ended")


def test_another_request_does_not_take_it_up() -> None:
    with Journal(REQUEST) as journal:
        journal.note("a", Sight(True, "fail"))
    with Journal({**REQUEST, "content": "2"}) as other:
        assert other.runs_of("a") == ()
    with Journal(REQUEST) as same:
        assert len(same.runs_of("a")) == same.resumed == 1
    with Journal(REQUEST, restart=True) as fresh:
        assert fresh.resumed == 0


def test_header_names_the_request() -> None:
    with Journal(REQUEST) as journal:
        head = json.loads(journal.path.read_text().splitlines()[0])
    assert head == {"format": 1, "request": REQUEST}


def test_foreign_header_is_not_believed() -> None:
    with Journal(REQUEST) as journal:
        journal.note("a", Sight(True, "fail"))
    journal.path.write_text(journal.path.read_text().replace("mine.yaml", "yours.yaml"))
    with Journal(REQUEST) as again:
        assert again.resumed == 0


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_half_a_line_is_dropped(cut: int, tmp_path: Path) -> None:
    with Journal(REQUEST) as journal:
        journal.note("a", Sight(True, "fail", "why", 1.5, tmp_path))
        journal.note("b", Sight(False, "pass"))
    journal.path.write_bytes(journal.path.read_bytes()[:-cut])
    with Journal(REQUEST) as again:
        assert again.runs_of("a") == (Sight(True, "fail", "why", 1.5, tmp_path),)
        assert again.runs_of("b") == ()
        again.note("b", Sight(None, "skip"))
    with Journal(REQUEST) as third:
        assert third.runs_of("b") == (Sight(None, "skip"),)


def test_damaged_line_is_named() -> None:
    with Journal(REQUEST) as journal:
        journal.note("a", Sight(True, "fail"))
    journal.path.write_text(journal.path.read_text() + "nonsense\n")
    with pytest.raises(UserError, match=r"journal.jsonl:3: .*\n.*--restart"):
        Journal(REQUEST)


def test_full_disk_leaves_a_whole_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(REQUEST) as journal:
        journal.note("a", Sight(True, "fail"))
        before = journal.path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(CacheError, match="No space left"):
                journal.note("b", Sight(True, "fail"))
        assert journal.path.read_bytes() == before
        assert journal.runs_of("b") == ()


def test_the_same_twice_at_once_is_refused() -> None:
    with Journal(REQUEST), pytest.raises(UserError, match="in another process"):
        Journal(REQUEST)


# What a verdict is worth


@pytest.mark.parametrize(
    ("verdict", "error", "seen", "shown"),
    [
        ("pass", None, None, False),
        ("fail", None, None, True),
        ("crash", None, None, True),
        ("skip", None, None, None),
        ("invalid", None, None, None),
        ("crash", BootFailed, None, None),  # it does not boot
        ("crash", BootFailed, True, True),
        ("pass", None, False, False),
        ("fail", None, False, False),
        ("pass", None, True, True),
        ("crash", None, True, True),
        ("crash", None, False, None),  # another crash
        ("invalid", None, False, None),
    ],
)
def test_worth_of_a_verdict(verdict: str, error: Any, seen: Any, shown: Any) -> None:
    assert show_of(Verdict(verdict), error, "", seen) is shown


def test_a_fault_of_the_labs_is_no_verdict() -> None:
    with pytest.raises(LabBroken, match="the lab is at fault, not the kernel: QEMU is gone"):
        show_of(Verdict.INVALID, QemuFailed, "QEMU is gone", None)
    assert show_of(Verdict.INVALID, KernelNotFound, "", None) is None


def test_worst_of_several_runs() -> None:
    passed, failed = Sight(False, "pass", seconds=1), Sight(True, "fail", seconds=2)
    skipped, lost = Sight(None, "skip"), Sight(None, "invalid")
    assert worst([passed, failed, lost]) == Sight(True, "fail", seconds=3)
    assert worst([skipped, passed]).verdict == "pass"
    assert worst([passed, lost]).verdict == "invalid"
    assert worst([skipped, skipped]).verdict == "skip"


def test_ends_are_marked_whatever_they_showed() -> None:
    answer = hunt(plainly, candidates=[CANDIDATES[0], CANDIDATES[49]])
    assert (answer.last_old[1].mark, answer.first_new[1].mark) == (Mark.OLD, Mark.NEW)
