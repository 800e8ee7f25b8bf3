"""Whatever is done to a scenario file, it is a scenario or a ScenarioError, and soon."""

from __future__ import annotations

import copy
import os
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from harness.errors import ScenarioError
from harness.scenario.load import dump_scenario, load_scenario, load_scenarios

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RICH = """\
extends: base.yaml
matrix: {cpus: [4, 8], qsize: [8], by: [flow]}
nics: [{mode: native, receive_on: 1}, {}]
offline: [3]
socket: false
needs: [gro]
entries:
  - {cpu: 1, qsize: 64, program: [pass, drop]}
  - {cpu: 2, qsize: 64, program: {to_cpu: 0, to_map: 1}}
  - {cpu: 0, qsize: 64, map: 1, program: {to_nic: 1}}
traffic:
  - {frames: 50, burst: 5, vlan: 3, nic: 1, protocol: tcp, size: 90}
timeline:
  - {do: hold, cpu: 1, at: 0}
  - {do: update, cpu: 1, qsize: 9, at: 3, after: sent, program: drop, errno: EINVAL}
  - {do: release, cpu: 1, at: 9}
  - {do: wait, seconds: 0.5}
expect: {delivered: {1: [3, 9]}, dropped: 0, shares: {2: 0.5}, within: 0.1, in_order: true}
"""
SEEDS = {"rich": RICH} | {
    name: (CONFIGS / f"{name}.yaml").read_text()
    for name in ("quickstart", "live-flood", "plugged", "replay")
}
SCRAPS = [
    *("{", "}", "[", "]", ":", ",", "-", "- ", "\n", "\t", "  ", "#", "'", '"', "|", ">", "?", "!"),
    *("&a ", "*a", "<<: ", "---\n", "...\n", "%YAML 1.1\n", "!!int ", "!!set ", "!x ", "~", "null"),
    *("yes", "no", "0x", "010", "1:30", ".nan", "-.inf", "1e999", "9" * 30, "9" * 5000, "-1", "="),
    *("2024-01-01", "é", "\x00", "\x7f", "\ufeff", "\ud7ff", "😀", "\r", "a: b\n", "cpus: 3\n"),
    *("entries", "traffic", "steer", "expect", "kernel", "{0: 1}", "[[]]", "{}", "[]", "path:"),
]
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "250"))
VALUES: list[object] = [
    *(None, True, False, 0, -1, 1, 4, 2**31, 2**64, 10**30, 1.5, float("inf"), float("nan"), ""),
    *("x", "debian:6.1", "path:/x", "frame", "generic", "\n", "x" * 200, [], [[]], {}, {0: 1}),
    *([1, 2], [{}], [{"cpu": 1, "qsize": 2}] * 2, {"by": "flow"}, {"": {}}, [None], {None: 1}),
]


def mutate_text(draw: random.Random, text: str) -> bytes:
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(text) + 1)
        to = min(len(text), at + draw.choice([0, 0, 1, 5, 40]))
        text = text[:at] + draw.choice([*SCRAPS, text[at:to] * 2, ""]) + text[to:]
    return text.encode("utf-8", "surrogatepass")


def mutate_bytes(draw: random.Random, text: str) -> bytes:
    content = bytearray(text.encode())
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])


def mutate_data(draw: random.Random, text: str) -> bytes:
    data = yaml.safe_load(text)
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


@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
@pytest.mark.parametrize("mutate", [mutate_text, mutate_bytes, mutate_data])
def test_no_mutation_ends_in_another_error(
    tmp_path: Path, mutate: Callable[[random.Random, str], bytes], seed: str
) -> None:
    draw = random.Random(mutate.__name__)
    path = tmp_path / "mine.yaml"
    (tmp_path / "base.yaml").write_text(SEEDS["quickstart"])
    (tmp_path / "captures").symlink_to(CONFIGS / "captures")  # by no path that differs by machine
    place = re.compile(re.escape(f"{tmp_path}/") + r"[^:]+:\d+:\d+: .")
    accepted = refused = 0
    unplaced: list[str] = []
    for _ in range(ROUNDS):
        content = mutate(draw, seed)
        path.write_bytes(content)
        try:
            scenarios = load_scenarios(path)
        except ScenarioError as error:
            refused += 1
            unplaced += [line for line in error.message.split("\n") if not place.match(line)]
            continue
        accepted += 1
        for scenario in scenarios[:2]:
            path.write_text(dump_scenario(scenario.expand()))
            assert load_scenario(path) == scenario.expand()
    assert not unplaced
    assert refused > ROUNDS / 10
    assert accepted
