"""Injectors inside the guest: what they are told to make, and what they cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import TrafficError
from harness.paths import built
from harness.tests.test_scenario_load import GOOD, only_fault
from harness.traffic import live as room
from harness.traffic.frames import Flow, build_frames
from harness.traffic.live import LiveInjector

if TYPE_CHECKING:
    from pathlib import Path

MAC = "52:54:00:63:70:00"
HOLD_ALL = ", ".join(
    f"{{after: offered, do: {what}, cpu: {cpu}}}"
    for cpu in range(4)
    for what in ("hold", "release")
)


def flow(frames: int, **how: Any) -> Flow:
    return Flow(frames, "10.0.0.1", "10.0.0.2", MAC, **how)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int, int]]:
    """What is run: CPU, number of the first frame, how many, and their size."""
    made: list[tuple[int, int, int, int]] = []

    def run_live(_calls: Any, _numbers: Any, runs: Any, **_how: Any) -> None:
        made.extend((cpu, run.first, run.repeat, len(run.frame)) for cpu, run in runs.items())

    monkeypatch.setattr(room, "run_live", run_live)
    return made


def injector(cpu: int = 0) -> LiveInjector:
    nothing: Any = None
    return LiveInjector(nothing, nothing, nothing, 7, nothing, 1.0, cpu)


def test_frames_that_differ_in_their_number_are_one_run(runs: list[Any]) -> None:
    frames = build_frames([flow(300), flow(2, size=99)], first=5, order=[0] * 299 + [1, 1, 0])
    told: list[int] = []
    assert injector(3).send(frames.data, progress=told.append) == 302
    assert runs == [(3, 5, 299, 64), (3, 304, 2, 99), (3, 306, 1, 64)]
    assert told == [299, 301, 302]


def test_a_number_that_is_left_out_begins_a_run(runs: list[Any]) -> None:
    frames = build_frames([flow(6)])
    injector().send(frames.data[:2] + frames.data[3:])
    assert [run[1:3] for run in runs] == [(0, 2), (3, 3)]


def test_at_a_rate_each_frame_is_a_run(runs: list[Any]) -> None:
    assert injector().send(build_frames([flow(3)]).data, rate=1e6) == 3
    assert [run[1:3] for run in runs] == [(0, 1), (1, 1), (2, 1)]


def test_what_was_not_made_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TrafficError("CPU 0 made 1 of 3 live frames")

    monkeypatch.setattr(room, "run_live", fail)
    with pytest.raises(TrafficError, match="made 1 of 3"):
        injector().send(build_frames([flow(3)]).data)
    assert injector().send([]) == 0


@pytest.mark.parametrize(
    ("keys", "flow", "fault"),
    [
        ("injector: live", "{frames: 1, protocol: tcp}", "traffic[0].protocol: live frames are"),
        ("injector: live", "{frames: 1, vlan: 3}", "traffic[0].vlan: live frames are UDP without"),
        ("injector: live\nmtu: 3000", "{frames: 1, size: 1515}", "live frames have 1514 bytes at"),
        ("injector: live\nsteer: {mode: generic}", "{frames: 1}", "steer.mode: live frames know"),
        ("injector: live\nnics: [{mode: generic}]", "{frames: 1}", "nics[0].mode: live frames kn"),
        ("injector: veth\nnics: [{queues: 2}]", "{frames: 1}", "`injector: veth` has one queue"),
        ("injector: socket\nnics: [{queues: 2}]", "{frames: 1}", "has one queue: say `tap`"),
        (
            "injector: veth\nnics: [{receive_on: 3}]\noffline: [3]",
            "{frames: 1}",
            "nics[0].receive_on: CPU 3 is held or goes offline",
        ),
        (
            "injector: veth\ntimeline: [{after: rest, do: remove_nic, nic: 0}]",
            "{frames: 1}",
            "timeline[0].nic: `injector: veth` sends past the NICs",
        ),
        ("injector: live", "{frames: 1, pcap: x.pcap}", "traffic[0].pcap: live frames are UDP"),
        ("injector: live\nsteer: {object: x.o}", "{frames: 1}", "steer.object: the lab's own pro"),
        (f"injector: veth\ntimeline: [{HOLD_ALL}]", "{frames: 1}", "injector: each CPU is held"),
        ("injector: wire", "{frames: 1}", "injector: "),
    ],
)
def test_what_an_injector_cannot_do(tmp_path: Path, keys: str, flow: str, fault: str) -> None:
    (tmp_path / "x.pcap").touch()
    (tmp_path / "x.o").symlink_to(built("steer.bpf.o"))
    text = GOOD.replace("frames: 4000", flow) + f"socket: false\n{keys}\n"
    assert fault in only_fault(tmp_path, text)
