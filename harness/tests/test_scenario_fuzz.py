"""Whatever is done to a scenario file, it is a scenario or a ScenarioError, and soon."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from harness.errors import ScenarioError
from harness.scenario.load import dump_scenario, load_scenario

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = (Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml").read_text()
SCRAPS = [
    *("{", "}", "[", "]", ":", ",", "-", "- ", "\n", "\t", "  ", "#", "'", '"', "|", ">", "?", "!"),
    *("&a ", "*a", "<<: ", "---\n", "...\n", "%YAML 1.1\n", "!!int ", "!!set ", "!x ", "~", "null"),
    *("yes", "no", "0x", "010", "1:30", ".nan", "-.inf", "1e999", "9" * 30, "9" * 5000, "-1", "="),
    *("2024-01-01", "é", "\x00", "\x7f", "\ufeff", "\ud7ff", "😀", "\r", "a: b\n", "cpus: 3\n"),
    *("entries", "traffic", "steer", "expect", "kernel", "{0: 1}", "[[]]", "{}", "[]", "path:"),
]
VALUES: list[object] = [
    *(None, True, False, 0, -1, 1, 4, 2**31, 2**64, 10**30, 1.5, float("inf"), float("nan"), ""),
    *("x", "debian:6.1", "path:/x", "frame", "generic", "\n", "x" * 200, [], [[]], {}, {0: 1}),
    *([1, 2], [{}], [{"cpu": 1, "qsize": 2}] * 2, {"by": "flow"}, {"": {}}, [None], {None: 1}),
]


def mutate_text(draw: random.Random) -> bytes:
    text = SEED
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(text) + 1)
        to = min(len(text), at + draw.choice([0, 0, 1, 5, 40]))
        text = text[:at] + draw.choice([*SCRAPS, text[at:to] * 2, ""]) + text[to:]
    return text.encode("utf-8", "surrogatepass")


def mutate_bytes(draw: random.Random) -> bytes:
    content = bytearray(SEED.encode())
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])


def mutate_data(draw: random.Random) -> bytes:
    data = yaml.safe_load(SEED)
    for _ in range(draw.randint(1, 3)):
        place, step = draw.choice([*_places(data)])
        if draw.random() < 0.7:
            place[step] = copy.deepcopy(draw.choice(VALUES))
        elif isinstance(place, dict):
            place[draw.choice([f"{step}s", str(step)[1:], 7, "seed", "by"])] = place.pop(step)
        else:
            place.append(place[step])
    return yaml.safe_dump(data, default_flow_style=draw.choice([None, True, False])).encode()


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Every container and key or index in some data."""
    if not isinstance(data, dict | list):
        return []
    steps = list(data) if isinstance(data, dict) else list(range(len(data)))
    return [place for step in steps for place in ((data, step), *_places(data[step]))]


@pytest.mark.parametrize("mutate", [mutate_text, mutate_bytes, mutate_data])
def test_no_mutation_ends_in_another_error(
    tmp_path: Path, mutate: Callable[[random.Random], bytes]
) -> None:
    draw = random.Random(mutate.__name__)
    path = tmp_path / "mine.yaml"
    place = re.compile(re.escape(f"{path}:") + r"\d+:\d+: .")
    accepted = refused = 0
    unplaced: list[str] = []
    for _ in range(1000):
        content = mutate(draw)
        path.write_bytes(content)
        try:
            scenario = load_scenario(path)
        except ScenarioError as error:
            refused += 1
            unplaced += [line for line in error.message.split("\n") if not place.match(line)]
            continue
        accepted += 1
        path.write_text(dump_scenario(scenario.expand()))
        assert load_scenario(path) == scenario.expand()
    assert not unplaced
    assert refused > 100
    assert accepted > 5
