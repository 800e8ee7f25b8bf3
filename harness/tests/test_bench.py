from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, cast

import pytest
from click.testing import CliRunner
from rich.console import Console

import harness.bench.cli
import harness.bench.load
import harness.bench.stress
import harness.bench.traffic
import harness.bench.virtme
from harness.bench import bench
from harness.bench.load import Load, Stopwatch, Usage, name_limit, read_times, vcpu_threads
from harness.bench.measure import middle
from harness.bench.report import BOOT, CLONE, OWN, PEER, PEER_QEMU, Findings
from harness.bench.series import Rounds, Summary, summarise
from harness.bench.stress import many_boots
from harness.bench.traffic import Injection, send_only, send_to_guest
from harness.bench.virtme import Peer
from harness.errors import BootFailed, QemuFailed, ToolMissing, TrafficError
from harness.kernels import KernelImage
from harness.phases import Phases
from harness.tests.fakes import ends
from harness.vng import find_vng

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.bench.series import Trial
    from harness.machine.machine import Machine, Recipe


def series(name: str, *rounds: float) -> tuple[str, Any]:
    """A trial that measures one figure a round; a negative one fails."""
    left = list(rounds)

    def trial() -> Mapping[str, Sequence[float]]:
        value = left.pop(0)
        if value < 0:
            raise QemuFailed("QEMU ended\nand said why")
        return {name: [value]}

    return name, trial


# series


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


# load

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


# traffic


def injection(rate: float) -> Injection:
    return Injection(1000, 1.0, 1000 / rate, None)


def test_the_rate_is_up_to_the_proof_of_the_last_arrival() -> None:
    assert Injection(1000, 0.01, 0.5, None).rate == 2000


def test_the_middle_run_has_the_median_rate() -> None:
    assert middle([injection(r) for r in (30, 10, 20)]).rate == pytest.approx(20)
    assert middle([injection(r) for r in (40, 10, 20, 30)]).rate == pytest.approx(20)


def test_the_sender_alone_sends_all() -> None:
    alone = send_only([bytes(64)] * 1000)
    assert alone.frames == 1000
    assert 0 < alone.send_s == alone.rest_s


class FakeRun:
    """A clone and a steering on it whose books the test writes."""

    def __init__(self, **books: Any) -> None:
        self.process = SimpleNamespace(pid=1)
        self.books = SimpleNamespace(
            **{
                "balanced": True,
                "dropped": 0,
                "socket": 0,
                "queue_drops": 0,
                "reasons": (),
                **books,
            }
        )
        self.plans: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def flow(self, frames: int) -> int:
        return frames

    def inject(self, frames: object) -> None: ...

    def wait_rest(self) -> None: ...

    def close(self) -> SimpleNamespace:
        return self.books


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    run = FakeRun()
    room = harness.bench.traffic
    monkeypatch.setattr(room, "clone", lambda *_: run)
    monkeypatch.setattr(room, "vcpu_threads", lambda _: ())
    monkeypatch.setattr(room, "Guest", SimpleNamespace(of=lambda *_: None))
    monkeypatch.setattr(room, "build_frames", list)
    monkeypatch.setattr(room, "Stopwatch", lambda *_: SimpleNamespace(read=lambda: None))

    def steering(_: object, plan: object) -> FakeRun:
        run.plans.append(plan)
        return run

    monkeypatch.setattr(room, "Steering", steering)
    return run


RECIPE = cast(
    "Recipe",
    SimpleNamespace(
        topology=SimpleNamespace(cpus=4),
        kernel=SimpleNamespace(spec="debian:7.3", release="7.3.4-cloud-amd64"),
    ),
)
SNAPSHOT = cast("Any", SimpleNamespace(prepared={}))


def test_frames_count_when_the_books_balance_and_all_arrived(fake_run: FakeRun) -> None:
    fake_run.books.socket = 1000
    assert send_to_guest(RECIPE, SNAPSHOT, 1000).frames == 1000
    (plan,) = fake_run.plans
    assert (plan.targets, set(plan.entries), plan.socket) == ((0, 1, 2, 3), {0, 1, 2, 3}, True)
    fake_run.books.dropped = 1000
    send_to_guest(RECIPE, SNAPSHOT, 1000, drop=True)
    assert (fake_run.plans[1].entries, fake_run.plans[1].flags) == ({}, 1)


@pytest.mark.parametrize(
    ("books", "said"),
    [
        ({"socket": 1000, "balanced": False, "reasons": ("3 frames missing",)}, "3 frames missing"),
        ({"socket": 990, "queue_drops": 10}, "queues were full for 10"),
    ],
)
def test_a_rate_without_proof_is_none(fake_run: FakeRun, books: dict[str, Any], said: str) -> None:
    vars(fake_run.books).update(books)
    with pytest.raises(TrafficError, match=said):
        send_to_guest(RECIPE, SNAPSHOT, 1000)


# stress


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


# report


def findings() -> Findings:
    found = Findings({"kernels": [{"release": "7.3.4"}]}, 1000, peer="")
    found.boots.rows = [
        {BOOT: (4.0,), CLONE: (0.1, 0.2, 0.4), OWN: (3.0,), PEER: (12.0,), PEER_QEMU: (11.4,)}
    ]
    found.traffic.rows = [
        {"sender": (400_000.0,), "qemu": (200_000.0,), "xdp_drop": (80_000.0,), "cpumap": (45_678,)}
    ]
    found.loads = {"cpumap": Load(Usage(0.1, 0.1), Usage(0.9, 0.0), (Usage(0.5, 0.1),) * 4)}
    found.limit = name_limit(found.loads["cpumap"], 8)
    return found


def test_json_says_the_three_figures_and_what_they_come_from() -> None:
    found = json.loads(json.dumps(findings().to_json()))
    assert found["clone_speedup"] == 20.0
    assert found["boot_speedup_over_virtme_ng"] == 4.0
    assert found["boot_speedup_over_virtme_ng_qemu_alone"] == 3.8
    assert found["frames_per_s"] == 45678
    assert found["seconds"]["clone"] == {
        "median": 0.2,
        "min": 0.1,
        "max": 0.4,
        "count": 3,
        "failures": 0,
    }
    assert found["traffic"]["limit"]["who"] == "QEMU"
    assert found["virtme_ng"] == "measured"


def test_json_has_the_same_keys_when_nothing_was_measured() -> None:
    def shape(value: object) -> object:
        return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else None

    empty = Findings({"kernels": [{"release": "7.3.4"}]}, 1000, peer="not installed").to_json()
    whole = findings().to_json()
    assert empty.keys() == whole.keys()
    assert shape(empty["seconds"]) == shape(whole["seconds"])
    for figure in ("clone_speedup", "boot_speedup_over_virtme_ng", "frames_per_s"):
        assert empty[figure] is None
    assert empty["virtme_ng"] == "not installed"


def told(found: Findings) -> str:
    console = Console(width=200, file=io.StringIO())
    for part in found.tables():
        console.print(part)
    return cast("io.StringIO", console.file).getvalue()


def test_people_are_told_figures_ratios_and_the_limit() -> None:
    text = told(findings())
    assert "20.0 times as fast as the cold boot" in text
    assert "4.0 times as long as ours" in text
    assert "45,678" in text
    assert "limit: QEMU: QEMU's main loop has no time to spare" in text


def test_people_are_told_of_failures_and_of_what_is_left_out() -> None:
    found = findings()
    found.peer = "not installed"
    found.boots.run(dict([series(BOOT, -1)]), 1)
    text = told(found)
    assert "virtme-ng: not installed" in text
    assert "failed: cold_boot, run 1: QemuFailed: QEMU ended\n" in text


# virtme-ng


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """virtme-ng with a `vng` that does what `$FAKE` says once it has started its QEMU."""
    tools, kernel = tmp_path / "tools", tmp_path / "kernel"
    tools.mkdir()
    (kernel / "modules" / "6.1.0-1-amd64" / "kernel").mkdir(parents=True)
    (kernel / "vmlinuz").touch()
    for name in ("depmod", "modprobe", "busybox"):
        (tools / name).symlink_to("/bin/true")
    vng = tools / "vng"
    vng.write_text(
        "#!/bin/sh\n"
        'echo "$@" >"$TMPDIR/said"\n'
        'while [ "$1" != --qemu ]; do shift; done\n'
        '"$2" --version; "$2" -m 1\n'
        'eval "$FAKE"\n'
    )
    vng.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    image = KernelImage(
        spec="debian:6.1-amd64",
        release="6.1.0-1-amd64",
        version="6.1.1-1",
        boot=kernel / "vmlinux",
        vmlinuz=kernel / "vmlinuz",
        modules=kernel / "modules" / "6.1.0-1-amd64",
        config=None,
        sha256="0" * 64,
    )
    recipe = SimpleNamespace(
        kernel=image,
        topology=SimpleNamespace(cpus=4, memory_mib=512),
        qemu=SimpleNamespace(binary=Path("/bin/echo"), args=("-L", "a b"), env={"X": "1 2"}),
        accel=SimpleNamespace(name="tcg", pace=1.0),
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Peer(vng, cast("Recipe", recipe), scratch)


def test_the_peer_gets_our_kernel_qemu_cpus_and_memory(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", "echo cpumap-lab-answers")
    boot = peer.boot()
    assert 0 < boot.qemu_seconds < boot.seconds
    said = (tmp_path / "scratch" / "said").read_text()
    for word in ("--disable-kvm", "--force-9p", "--cpus 4", "--memory 512M"):
        assert word in said
    kernel = tmp_path / "scratch" / "boot" / "vmlinuz-6.1.0-1-amd64"
    assert str(kernel) in said
    assert kernel.resolve() == (tmp_path / "kernel" / "vmlinuz")
    assert (tmp_path / "scratch" / "lib/modules/6.1.0-1-amd64/kernel").is_dir()
    assert (
        "exec setpriv --pdeathsig KILL -- /bin/echo -L 'a b' \"$@\""
        in (tmp_path / "scratch" / "qemu").read_text()
    )


def test_a_peer_that_ends_without_an_answer_has_failed(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", "echo qemu: Assertion failed; exit 255")
    with pytest.raises(BootFailed, match=r"without an answer: qemu: Assertion failed\n"):
        peer.boot()


def test_a_peer_that_hangs_is_ended_with_all_its_processes(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.bench.virtme, "LIMIT_S", 0.0)
    monkeypatch.setattr(peer, "_limit_s", 3.0)
    child = tmp_path / "child"
    monkeypatch.setenv("FAKE", f"sleep 60 & echo $! >{child}; wait")
    with pytest.raises(BootFailed, match="no answer in"):
        peer.boot()
    assert ends(int(child.read_text()))


def test_the_peers_tools_are_named_when_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda tool, path: None)
    assert find_vng() is None
    with pytest.raises(ToolMissing, match="not installed"):
        Peer.found(RECIPE, tmp_path)


# the command


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
