"""The command `cpumap-lab bench`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import harness.bench.cli
import harness.bench.load
import harness.bench.stress
import harness.bench.traffic
import harness.bench.virtme
from harness.bench import bench
from harness.bench.report import BOOT, OWN, PEER, Findings

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.machine.machine import Recipe


from harness.tests.benches import RECIPE, SNAPSHOT, findings, series, told


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the command measures, by name, without a guest."""
    done: list[str] = []
    room = harness.bench.cli

    class FakeLab:
        def __init__(self, **_: object) -> None: ...

        def recipe(self, spec: str, _: object) -> Recipe:
            done.append(spec)
            return RECIPE

    monkeypatch.setattr(room, "Lab", FakeLab)
    monkeypatch.setattr(room, "setting_of", lambda _: {"kernels": []})
    monkeypatch.setattr(room, "find_vng", lambda: None)
    monkeypatch.setattr(room, "template", lambda _: SNAPSHOT)
    monkeypatch.setattr(room, "measure_boots", lambda *_: done.append("boots"))
    monkeypatch.setattr(room, "measure_traffic", lambda *_: done.append("traffic"))

    def nothing(name: str) -> Callable[..., SimpleNamespace]:
        def many(*_: object) -> SimpleNamespace:
            done.append(name)
            return SimpleNamespace(failures=[], to_json=dict)

        return many

    for name in ("many_clones", "many_boots"):
        monkeypatch.setattr(room, name, nothing(name))
    return done


def test_a_failure_of_the_peers_is_told_and_is_not_ours() -> None:
    found = findings()
    found.boots.run(dict([series(PEER, -1)]), 1)
    assert found.sound
    assert "failed: virtme_ng, run 1" in told(found)
    found.boots.run(dict([series(OWN, -1)]), 1)
    assert not found.sound


@pytest.mark.parametrize(
    ("options", "done"),
    [
        ([], ["debian:7.3", "boots", "traffic"]),
        (["--clones", "3"], ["debian:7.3", "many_clones"]),
        (["--boots", "3", "--runs", "1"], ["debian:7.3", "boots", "traffic", "many_boots"]),
        (
            ["--boots", "3", "--kernel", "debian:6.1", "--kernel", "debian:6.12"],
            ["debian:6.1", "debian:6.12", "many_boots", "many_boots"],
        ),
    ],
)
def test_options_say_what_is_measured(lab: list[str], options: list[str], done: list[str]) -> None:
    result = CliRunner().invoke(bench, ["--json", *options])
    assert result.exit_code == 0, result.output
    assert lab == done
    assert json.loads(result.stdout)["virtme_ng"] == "not installed"


def test_the_standard_kernel_is_fetched_for_virtme_ng_only(
    lab: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.bench.cli, "find_vng", lambda: Path("/vng"))
    CliRunner().invoke(bench, ["--json"])
    assert lab[:2] == ["debian:7.3", "debian:6.1-amd64"]
    lab.clear()
    CliRunner().invoke(bench, ["--json", "--clones", "1"])
    assert lab == ["debian:7.3", "many_clones"]


def test_several_kernels_cannot_be_measured_at_once(lab: list[str]) -> None:
    two = ["--kernel", "debian:6.1", "--kernel", "debian:7.3"]
    assert CliRunner().invoke(bench, two).exit_code == 2
    assert CliRunner().invoke(bench, [*two, "--clones", "2"]).exit_code == 2


def test_a_failure_on_the_way_shows_in_the_exit_status(
    lab: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(found: Findings, *_: object) -> None:
        found.boots.run(dict([series(BOOT, -1)]), 1)

    monkeypatch.setattr(harness.bench.cli, "measure_boots", fail)
    result = CliRunner().invoke(bench, ["--json"])
    assert result.exit_code == 125
    assert json.loads(result.stdout)["failures"][0]["kind"] == "QemuFailed"
