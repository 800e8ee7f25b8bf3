"""The command `cpumap-lab bench traffic`: what it measures, and how it is told."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

import harness.bench.cli
import harness.bench.rates_cli
from harness.bench import bench
from harness.bench.picture import draw
from harness.bench.rates import Sample, Setting, middle
from harness.bench.rates_report import RateFindings, Row
from harness.bench.stream import PIECE, Stream, _prove
from harness.errors import QemuFailed, TrafficError
from harness.tests.benches import SNAPSHOT, told
from harness.trace.latency import Waits

if TYPE_CHECKING:
    from pathlib import Path

RATES = {"socket": 20_000.0, "tap": 40_000.0, "live": 110_000.0, "veth": 15_000.0}


def sample(rate: float, p50: float = 100.0) -> Sample:
    return Sample(rate, rate / 2, 0.25, Waits(1000, p50, 400.0, 900.0, 5000.0))


def findings(**costs_s: float) -> RateFindings:
    found = RateFindings({"kernels": []}, 1000, rss_kib=90 << 10)
    for injector, rate in RATES.items():
        setting = Setting(injector, "debian:7.3", 4, 192, "native")
        found.rows.append(Row(setting, [sample(rate), sample(rate * 2), sample(rate / 2)]))
    for count, seconds in costs_s.items():
        found.streams.append(Stream(int(count[1:]), 9.0, seconds, 91 << 10))
    return found


def test_the_median_is_of_each_figure() -> None:
    both = middle([sample(30, 1), sample(10, 9), sample(20, 5)])
    assert (both.offered, both.taken, both.waits.p50) == (20, 10, 5)


def test_live_frames_are_compared_with_those_of_a_socket() -> None:
    (times,) = findings().speedups()
    assert times.offered == times.taken == pytest.approx(5.5)
    said = told(findings())  # type: ignore[arg-type]
    assert "target 5 times: offered 5.5 (reached), taken 5.5 (reached)" in said


@pytest.mark.parametrize(
    ("long_s", "said"),
    [(119.0, "target 20% off: 19% (reached)"), (121.0, "target 20% off: 21% (missed)")],
)
def test_the_cost_of_a_frame_is_compared_with_the_shortest_stream(long_s: float, said: str) -> None:
    assert said in told(findings(_10000=0.1, _10000000=long_s))  # type: ignore[arg-type]


def test_the_picture_is_whole() -> None:
    found = findings(_10000=0.1, _100000=1.2)
    found.rows[0].setting = Setting("socket", "path:/a<b>&c", 4, 192, "native")
    texts = [node.text for node in ElementTree.fromstring(draw(found)).iter() if node.text]
    assert "socket, path:/a<b>&c, 4 CPUs, qsize 192, native" in texts
    assert "110,000, 25% dropped" in texts
    assert "12.00 µs; the lab has 91 MiB" in texts


def test_a_picture_of_nothing() -> None:
    assert "nothing was measured" in draw(RateFindings({}, 1000))


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is measured, without a guest."""
    done: list[str] = []

    class FakeLab:
        def __init__(self, **_: object) -> None: ...

        def recipe(self, spec: str, topology: object) -> Any:
            version = tuple(map(int, spec.removeprefix("debian:").split(".")))
            kernel = SimpleNamespace(spec=spec, release=spec, numbers=version)
            return SimpleNamespace(kernel=kernel, topology=topology)

    def measure(recipe: Any, _: object, setting: Setting, frames: int) -> Sample:
        done.append(f"{setting.injector} {recipe.topology.taps} {setting.qsize} {frames}")
        if setting.qsize == 1:
            raise QemuFailed("QEMU ended\nand said why")
        return sample(RATES[setting.injector])

    def stream(_recipe: object, _snapshot: object, frames: int, advance: Any) -> Stream:
        advance(frames)
        done.append(f"stream {frames}")
        return Stream(frames, 1.0, frames / 1e5, 1024)

    room = harness.bench.rates_cli
    monkeypatch.setattr(room, "Lab", FakeLab)
    monkeypatch.setattr(harness.bench.rates_cli, "setting_of", lambda _: {"kernels": []})
    monkeypatch.setattr(room, "template", lambda _: SNAPSHOT)
    monkeypatch.setattr(room, "measure", measure)
    monkeypatch.setattr(room, "stream", stream)
    return done


def run(*arguments: str) -> Any:
    return CliRunner().invoke(bench, ["traffic", "--json", *arguments])


def test_each_combination_takes_its_turn(lab: list[str], tmp_path: Path) -> None:
    svg = tmp_path / "rates.svg"
    result = run("--qsize", "64", "--runs", "2", "--most", "100000", "--svg", str(svg))
    assert result.exit_code == 0, result.output
    once = ["socket () 64 50000"] * 2 + ["tap (4,) 64 50000"] * 2 + ["live () 64 50000"]
    once += ["veth () 64 50000"] * 2
    assert lab == once * 2 + [*["stream 10000"] * 6, "stream 100000"] * 2
    found = json.loads(result.stdout)
    assert [row["why"] for row in found["rows"]][5] == "live frames know no generic mode"
    assert found["live_over_socket"][0]["offered"] == 5.5
    assert svg.read_text().startswith("<svg")


def test_a_kernel_without_live_frames(lab: list[str]) -> None:
    result = run("--kernel", "debian:5.10", "--injector", "live", "--qsize", "64")
    assert result.exit_code == 0
    assert not lab
    assert "since 5.18" in json.loads(result.stdout)["no_streams"]


def test_a_kernel_without_generic_mode(lab: list[str]) -> None:
    result = run("--kernel", "debian:5.10", "--injector", "veth", "--qsize", "64", "--runs", "1")
    assert result.exit_code == 0
    assert lab == ["veth () 64 50000"]
    assert [row["why"] for row in json.loads(result.stdout)["rows"]] == [
        "",
        "generic mode: since 5.15",
    ]


def test_a_run_that_failed_is_told(lab: list[str]) -> None:
    result = run("--injector", "socket", "--qsize", "1", "--mode", "native", "--most", "0")
    assert result.exit_code == 125
    assert json.loads(result.stdout)["rows"][0]["why"] == "failed: QEMU ended"
    assert len(lab) == 1  # once is enough


def test_a_stream_that_failed_does_not_take_the_rest_with_it(
    lab: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise TrafficError("3 of 4 live frames came to the stack")

    monkeypatch.setattr(harness.bench.rates_cli, "stream", fail)
    result = run("--injector", "socket", "--qsize", "64", "--runs", "1")
    assert result.exit_code == 125
    found = json.loads(result.stdout)
    assert found["no_streams"] == "failed: 3 of 4 live frames came to the stack"
    assert [row["runs"] for row in found["rows"]] == [1, 1]
    assert len(lab) == 2


def test_options_of_the_other_bench_are_refused() -> None:
    result = CliRunner().invoke(bench, ["--boots", "3", "traffic"])
    assert result.exit_code == 2
    assert "--boots is not for traffic" in result.output


def counting(*counted: int, seen: list[int], arrived: list[int]) -> Any:
    return SimpleNamespace(counted=lambda: counted, recount=lambda _: (seen, arrived))


def test_a_stream_counts_each_number_at_both_ends() -> None:
    right = [2] * PIECE
    _prove(counting(2 * PIECE, 2 * PIECE, seen=right, arrived=right), 2 * PIECE)
    twisted = [*right[:-2], 1, 3]  # the sum is right
    with pytest.raises(TrafficError, match="the stack counted 20000, and 2 numbers not 2 times"):
        _prove(counting(2 * PIECE, 2 * PIECE, seen=right, arrived=twisted), 2 * PIECE)
    with pytest.raises(TrafficError, match="the XDP program counted 19999"):
        _prove(counting(2 * PIECE - 1, 2 * PIECE, seen=right, arrived=right), 2 * PIECE)
