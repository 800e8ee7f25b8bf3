"""A run that was kept is read again, and what changed since is told."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import ScenarioError
from harness.scenario.again import differences, read_run
from harness.scenario.load import load_scenarios
from harness.tests.test_scenario_files import CONFIGS, SCENARIOS
from harness.tests.test_scenario_runner import Lab, cache, lab, run  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path


def kept(outcome: Any) -> Path:
    path: Path = outcome.record.artifacts
    return path


def test_a_run_is_read_back_as_it_was(lab: Lab) -> None:  # noqa: F811
    expect = {"delivered": (0, 9999), "shares": {3: 0.5}, "within": 0.9}
    outcome = run(lab, expect=expect, nics=({"receive_on": 1}, {}), seed=9)
    before = read_run(kept(outcome))
    assert before == read_run(kept(outcome) / "run.json")
    assert before.verdict == "pass"
    assert before.scenario.expand() == before.scenario
    assert (before.scenario.kernel, before.scenario.seed) == (("debian:7.3",), 9)
    (told,) = differences(before, outcome)
    assert told == (
        "unchanged: kernel release, kernel version, kernel sha256, initramfs, QEMU, QEMU sha256, "
        "accelerator, threads of QEMU, cpumap-lab, cpumap-lab sha256"
    )


def test_what_has_changed_of_the_users_own_files_is_told(lab: Lab, tmp_path: Path) -> None:  # noqa: F811
    pcap = tmp_path / "mine.pcap"
    capture = (CONFIGS / "captures" / "mixed.pcap").read_bytes()
    pcap.write_bytes(capture)
    traffic = ({"frames": 48, "pcap": str(pcap)},)
    before = read_run(kept(run(lab, traffic=traffic, socket=False)))
    assert before.recipe["files"] == {str(pcap): hashlib.sha256(capture).hexdigest()}
    changed = capture[:-1] + b"\xff"
    pcap.write_bytes(changed)
    (told,) = differences(before, run(lab, traffic=traffic, socket=False))
    was, is_ = (hashlib.sha256(of).hexdigest()[:12] for of in (capture, changed))
    assert told == f"changed: file {pcap} was {was}, is {is_}"


@pytest.mark.parametrize("key", ["qemu_sha256", "threads", "lab_sha256"])
def test_what_an_older_run_does_not_tell_has_not_changed(lab: Lab, key: str) -> None:  # noqa: F811
    path = kept(run(lab)) / "run.json"
    told = json.loads(path.read_text())
    was = told["recipe"].pop(key)
    path.write_text(json.dumps(told))
    assert next(differences(read_run(path), run(lab))).startswith("unchanged: ")
    told["recipe"][key] = "other"
    path.write_text(json.dumps(told))
    (change,) = differences(read_run(path), run(lab))
    assert change.endswith(f"was other, is {was[:12]}")


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_survives_json(path: Path, tmp_path: Path) -> None:
    for scenario in load_scenarios(path):
        told = {"format": 1, "verdict": "pass", "recipe": {}, "ledger": {}}
        expanded = scenario.expand()
        told["scenario"] = expanded.model_dump(exclude_none=True)
        (tmp_path / "run.json").write_text(json.dumps(told))
        assert read_run(tmp_path).scenario == expanded


def test_what_has_changed_is_told(lab: Lab) -> None:  # noqa: F811
    path = kept(run(lab)) / "run.json"
    told = json.loads(path.read_text())
    told["recipe"]["kernel"]["sha256"] = "12" * 32
    told["recipe"]["qemu"] = "7.2.0"
    told["recipe"]["initramfs"] = None
    told["verdict"] = "crash"
    told["ledger"]["delivered"] = 3
    path.write_text(json.dumps(told))
    assert list(differences(read_run(path), run(lab))) == [
        "changed: kernel sha256 was 121212121212, is abababababab",
        "changed: initramfs was None, is cdcdcdcdcdcd",
        "changed: QEMU was 7.2.0, is 10.0.2",
        "changed: verdict was crash, is pass",
        "changed: delivered was 3, is 48",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "was written by a newer cpumap-lab"),
        ({"format": None}, "older than `rerun`"),
        ({"scenario": {"name": "x"}}, "its scenario is none that this cpumap-lab takes: entries"),
        ({"scenario": None}, "its scenario is none"),
        ({"recipe": 3}, "no whole run.json"),
    ],
)
def test_what_cannot_be_done_again(lab: Lab, change: dict[str, Any], told: str) -> None:  # noqa: F811
    path = kept(run(lab)) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ScenarioError, match=told):
        read_run(path)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b"{}"])
def test_what_is_no_run(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ScenarioError, match=r"is no run\.json"):
        read_run(tmp_path)


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot read the run"):
        read_run(tmp_path)
