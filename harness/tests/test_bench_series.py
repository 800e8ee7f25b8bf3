"""The bench: rounds that take turns, and what they come to."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

import harness.bench.cli
import harness.bench.load
import harness.bench.stress
import harness.bench.traffic
import harness.bench.virtme
from harness.bench.series import Rounds, Summary, summarise
from harness.bench.stress import many_boots
from harness.errors import BootFailed, QemuFailed, TrafficError
from harness.phases import Phases

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.bench.series import Trial


from harness.tests.benches import RECIPE, series


def test_rounds_take_turns() -> None:
    order: list[str] = []

    def noting(name: str) -> Trial:
        def trial() -> Mapping[str, Sequence[float]]:
            order.append(name)
            return {name: [1.0]}

        return trial

    Rounds().run({name: noting(name) for name in ("a", "b")}, 3)
    assert order == ["a", "b"] * 3


def test_a_summary_is_median_and_range() -> None:
    assert summarise([3.0, 1.0, 10.0], 2) == Summary(3.0, 1.0, 10.0, 3, 2)
    assert summarise([], 4) == Summary(None, None, None, 0, 4)
    assert summarise([1 / 3]).to_json()["median"] == 0.3333


def test_a_ratio_is_taken_within_each_round() -> None:
    # the machine grows ten times slower: medians over all rounds would say 1 / 4, not 1 / 2
    rounds = Rounds()
    rounds.run(dict([series("a", 1, 1, 10, 10), series("b", 2, 2, 20, 20)]), 4)
    assert rounds.ratio("b", "a") == 2.0
    rounds = Rounds([{"a": (1.0,), "b": (2.0, 3.0, 100.0)}])
    assert rounds.ratio("b", "a") == 3.0


def test_a_failed_trial_is_counted_and_leaves_the_others_be() -> None:
    rounds = Rounds()
    rounds.run(dict([series("a", 1, -1, 1), series("b", 4, 9, -1)]), 3)
    assert rounds.values("a") == [1, 1]
    assert rounds.summary("b") == Summary(6.5, 4, 9, 2, 1)
    assert rounds.ratio("b", "a") == 4.0  # the only round with both
    assert [(f.name, f.round, f.kind) for f in rounds.failures] == [
        ("a", 2, "QemuFailed"),
        ("b", 3, "QemuFailed"),
    ]


def test_no_round_with_both_is_no_ratio() -> None:
    rounds = Rounds()
    rounds.run(dict([series("a", 1, -1), series("b", -1, 1)]), 2)
    assert rounds.ratio("b", "a") is None
    assert rounds.ratio("b", "never") is None


def test_what_is_no_failure_of_a_trial_ends_the_bench() -> None:
    def trial() -> Mapping[str, Sequence[float]]:
        raise TrafficError("not every frame arrived")

    with pytest.raises(TrafficError):
        Rounds().run({"a": trial}, 1)


def test_failed_boots_are_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[float | Exception] = [
        3.0,
        BootFailed("the kernel died", phase="kernel", console="", crashed=True),
        5.0,
        QemuFailed("an assertion failed"),
    ]

    def boot(_: object) -> float:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(harness.bench.stress, "cold_boot", boot)
    phases = Phases(io.StringIO())
    found = many_boots(RECIPE, 4, phases).to_json()
    assert (found["runs"], found["good"]) == (4, 2)
    assert found["seconds"] == {"median": 4.0, "min": 3.0, "max": 5.0, "count": 2, "failures": 2}
    assert [(f["round"], f["kind"], f["what"]) for f in found["failures"]] == [
        (2, "BootFailed", "the kernel died"),
        (4, "QemuFailed", "an assertion failed"),
    ]
