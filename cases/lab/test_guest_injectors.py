"""However frames get in, they close the same books."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from harness.scenario.load import load_scenario
from harness.scenario.runner import run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.lab import Lab
    from harness.scenario.runner import Outcome

FRAMES = 1000
SCENARIO: dict[str, Any] = {
    "name": "one-of-three",
    "description": "two entries, one of which is held until its ring has overflowed",
    "entries": [{"cpu": 2, "qsize": 256}, {"cpu": 3, "qsize": 512}],
    "traffic": [{"frames": FRAMES}],
    "timeline": [
        {"at": 0, "do": "hold", "cpu": 2},
        {"at": 600, "after": "offered", "do": "release", "cpu": 2},
        {"at": 600, "after": "rest", "do": "wait"},
    ],
    # half of the first 600 are for the CPU that is held, and its ring has room for 256
    "expect": {"dropped": {2: 300 - 256}, "delivered": {2: 256 + 200, 3: 500}},
}


@pytest.fixture
def run(tmp_path: Path, workshop: Lab) -> Callable[..., Outcome]:
    def run(kernel: str, **keys: object) -> Outcome:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"kernel": kernel, **SCENARIO, **keys}, sort_keys=False))
        return run_scenario(workshop, load_scenario(path), kernel, root=tmp_path / "kept")

    return run


def books_of(outcome: Outcome) -> tuple[object, ...]:
    assert (outcome.record.verdict, outcome.record.reasons) == ("pass", ())
    assert outcome.imbalances == ()
    return outcome.record.ledger, outcome.record.per_cpu, outcome.socket


def test_wire_live_and_veth_close_the_same_books(run: Callable[..., Outcome]) -> None:
    books = [books_of(run("debian:7.3", injector=way)) for way in ("socket", "live", "veth")]
    assert books[0] == books[1] == books[2]


def test_before_live_frames_there_is_veth(run: Callable[..., Outcome]) -> None:
    outcome = run("debian:5.10", injector="live")
    books_of(outcome)
    (note,) = outcome.notes
    assert note.startswith("5.10.")
    assert note.endswith("makes no live frames (5.18 does): veth instead")
