"""The bench: whose time an injection took."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

import harness.bench.cli
import harness.bench.load
import harness.bench.stress
import harness.bench.traffic
import harness.bench.virtme
from harness.bench.load import Load, Stopwatch, Usage, name_limit, read_times, vcpu_threads

if TYPE_CHECKING:
    from pathlib import Path

    from harness.machine.machine import Machine


IDLE = Usage(0.05, 0.0)


@pytest.mark.parametrize(
    ("load", "cores", "who"),
    [
        (Load(Usage(0.97, 0.01), IDLE, (IDLE, IDLE)), 4, "sender"),
        (Load(IDLE, Usage(0.88, 0.05), (Usage(0.4, 0.1),)), 4, "QEMU"),
        (Load(IDLE, Usage(0.5, 0.1), (IDLE, Usage(0.9, 0.05))), 4, "guest"),
        (Load(IDLE, Usage(0.5, 0.1), (IDLE, Usage(0.6, 0.35))), 4, "guest"),
        (Load(IDLE, Usage(0.5, 0.1), (IDLE, Usage(0.3, 0.6))), 4, "host"),
        (Load(Usage(0.3, 0.1), Usage(0.8, 0.15), (Usage(0.75, 0.2),)), 2, "host"),
        (Load(Usage(0.3, 0.1), Usage(0.8, 0.15), (Usage(0.75, 0.2),)), 4, "QEMU"),
        (Load(IDLE, Usage(0.4, 0.0), (Usage(0.4, 0.1),)), 4, "hand-over"),
        (Load(Usage(0.9, 0.0), IDLE), 4, "sender"),
    ],
)
def test_who_has_no_time_to_spare_is_the_limit(load: Load, cores: int, who: str) -> None:
    limit = name_limit(load, cores)
    assert limit.who == who
    assert "QEMU's main loop" in limit.why


def test_a_load_without_a_guest_has_an_idle_one() -> None:
    load = Load(Usage(0.5, 0.0), Usage(0.25, 0.1))
    assert (load.guest, load.cores) == (Usage(0.0, 0.0), 0.75)
    assert load.to_json()["vcpus"] == []


def test_times_come_from_the_schedulers_statistics_or_from_ticks(tmp_path: Path) -> None:
    fields = ["S", *["0"] * 10, "150", "50", *["0"] * 30]
    (tmp_path / "stat").write_text(f"77 (a) b (c)) {' '.join(fields)}\n")
    assert read_times(tmp_path) == (200 / os.sysconf("SC_CLK_TCK"), 0.0)
    (tmp_path / "schedstat").write_text("2500000000 500000000 7\n")
    assert read_times(tmp_path) == (2.5, 0.5)


def test_a_stopwatch_reads_each_threads_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.bench.load, "PROC", tmp_path)
    tasks = {
        f"self/task/{threading.get_native_id()}": (1, 0),
        "70/task/70": (2, 1),
        "70/task/71": (3, 0),
        "70/task/72": (0, 0),
    }

    def write(scale: int) -> None:
        for task, times in tasks.items():
            (tmp_path / task).mkdir(parents=True, exist_ok=True)
            ran, waited = (int(t * scale * 1e9) for t in times)
            (tmp_path / task / "schedstat").write_text(f"{ran} {waited} 1\n")

    clock = iter([100.0, 110.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    write(1)
    stopwatch = Stopwatch(70, (71, 72))
    write(2)
    load = stopwatch.read()
    assert load == Load(Usage(0.1, 0), Usage(0.2, 0.1), (Usage(0.3, 0), Usage(0, 0)))
    assert load.guest == Usage(0.3, 0)


def test_vcpu_threads_are_in_the_order_of_the_cpus() -> None:
    answer = [{"cpu-index": 1, "thread-id": 12}, {"cpu-index": 0, "thread-id": 15}]
    machine = SimpleNamespace(qmp=lambda _: answer)
    assert vcpu_threads(cast("Machine", machine)) == (15, 12)
