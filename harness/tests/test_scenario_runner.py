"""The runner with a guest that is none: what it makes of all that can happen."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from harness.errors import (
    AgentLost,
    BootFailed,
    CacheError,
    FetchFailed,
    GuestError,
    KernelNotFound,
    LabError,
    QemuFailed,
    TrafficStalled,
)
from harness.judge import EMULATORS_FAULT
from harness.machine.hang.findings import Hang, Kind
from harness.paths import cache_dir
from harness.scenario import play, runner
from harness.scenario.runner import run_scenario
from harness.scenario.schema import Scenario
from harness.tests.ledger_worlds import Plan, World
from harness.trace.ledger import close_books
from harness.traffic.frames import Flow
from harness.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from harness.trace.books import Books

OOPS = "[    1.000000] BUG: kernel NULL pointer dereference, address: 0000000000000008\n"
PANIC = "[    2.000000] Kernel panic - not syncing: Fatal exception in interrupt\n"
PASSED = {
    *("report.html", "run.json", "ledger.json", "console.log", "dmesg.txt", "scenario.yaml"),
    *("injected.pcap", "delivered.pcap"),
}
FAILED = {*PASSED, "why.txt", "trace.jsonl", "qemu.txt", "repeat.txt", "guest.state.gz"}
HANG = Hang(Kind.GUEST_IDLE, "no CPU runs", text="guest idle: no CPU runs\nand more\n")


def scenario(**more: Any) -> Scenario:
    entries = ({"cpu": 2, "qsize": 64}, {"cpu": 3, "qsize": 64})
    keys: dict[str, Any] = {"name": "mine", "entries": entries, "traffic": ({"frames": 48},)}
    return Scenario.model_validate(keys | more)


def make_books(**how: Any) -> Books:
    return close_books(*World(Plan(socket=True, **how)).run())


@dataclass
class Guest:
    """What the runner asks of a guest."""

    console: str = "Linux version 7.3\n"
    said: str = "Linux version 7.3\n"
    left: list[dict[int, str]] = field(default_factory=lambda: [{7: "cpumap/2/map:3"}, {}])
    lost: bool = False
    opened: int = 0
    closed: int = 0
    records: list[Any] = field(default_factory=list)
    written: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        text = SimpleNamespace(text=lambda: self.console, expect=lambda *_, **__: 0)
        self.mac = lambda nic: "02:00:00:00:00:01"
        self.waited_for: list[str] = []
        self.machine = SimpleNamespace(
            console=text,
            pace=0.001,
            freezes=True,
            initramfs="cd" * 32,
            listen=lambda _: None,
            argv=("qemu", "-smp", "4"),
            hang=None,
            threads="multi",
            examine=self.examine,
        )
        self.tracer = SimpleNamespace(
            drain=lambda: None, trace=lambda: SimpleNamespace(records=self.records)
        )
        self.calls = SimpleNamespace(link=SimpleNamespace(call=lambda *_, **__: self.dmesg()))

    def __enter__(self) -> Self:
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1

    def examine(self, waited_for: str) -> None:
        self.waited_for.append(waited_for)
        self.machine.hang = HANG

    def look_into(self, error: LabError) -> None:
        if isinstance(error, TrafficStalled):
            self.examine(error.message)

    def dmesg(self) -> str:
        if self.lost:
            raise AgentLost("the guest's agent did not answer")
        return self.said

    def write(self, path: str, text: str) -> None:
        self.written.append((path, text))

    def threads(self, prefix: str) -> dict[int, str]:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


@dataclass
class Lab:
    """What the runner asks of a lab."""

    guest: Guest = field(default_factory=Guest)
    numbers: tuple[int, int, int] = (7, 3, 4)
    no_kernel: Exception | None = None
    no_guest: Exception | None = None
    asked: Any = None
    plan: Any = None
    did: list[Any] = field(default_factory=list)

    qemu = SimpleNamespace(version=(10, 0, 2), sha256="ef" * 32)
    accel = SimpleNamespace(name="tcg")

    def threads_of(self, topology: Any) -> str:
        return "single" if topology.pluggable else "multi"

    def kernel(self, spec: str) -> Any:
        if self.no_kernel:
            raise self.no_kernel
        return SimpleNamespace(
            release="7.3.4-x", version="7.3.4-1", sha256="ab" * 32, numbers=self.numbers
        )

    def open(self, spec: str, topology: Any) -> Guest:
        self.asked = topology
        if self.no_guest:
            raise self.no_guest
        return self.guest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def freezer(monkeypatch: pytest.MonkeyPatch) -> list[Guest]:
    """Freezes guests; those that were frozen."""
    frozen: list[Guest] = []

    def freeze(guest: Guest, room: Path, *, go_on: bool = False) -> dict[str, Path]:
        assert guest.closed < guest.opened
        frozen.append(guest)
        (room / "state").write_bytes(b"ram")
        return {"guest.state.gz": room / "state"}

    monkeypatch.setattr(runner, "freeze_guest", freeze)
    return frozen


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return steered(monkeypatch, Lab())


def steered(monkeypatch: pytest.MonkeyPatch, lab: Lab, books: object = None) -> Lab:
    """Replace the steering by one that ends with these books, or raises them."""

    class Steering:
        circumstances = SimpleNamespace(pinned=False)
        cpumaps = SimpleNamespace(rings={(3, 2): 64})
        traffic = SimpleNamespace(frames=[b"frame"], flows=[])

        def __init__(self, guest: object, plan: Any) -> None:
            lab.plan = plan
            self.sent = 0
            self.evidence = None

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **how: lab.did.append((name, *args, how))

        def flow(self, frames: int, *, nic: int, **how: Any) -> Flow:
            return Flow(frames, "10.0.0.1", "10.0.0.2", "52:54:00:63:70:00", **how)

        def inject(self, frames: Any) -> None:
            self.sent += len(frames)

        def sightings(self) -> list[Any]:
            return []

        arrivals = damaged = sightings

        def close(self) -> object:
            if isinstance(books, BaseException):
                raise books
            return books or make_books()

    monkeypatch.setattr(play, "Steering", Steering)
    return lab


def run(lab: Lab, **more: Any) -> Any:
    return run_scenario(lab, scenario(**more), "debian:7.3")  # type: ignore[arg-type]


def test_the_record_tells_how_this_guest_was_run(lab: Lab) -> None:
    assert run(lab).record.qemu.threads == "multi"
    lab.no_guest = QemuFailed("no QEMU today")
    goes = ({"at": 48, "after": "rest", "do": "unplug", "nic": 0},)
    assert run(lab, timeline=goes).record.qemu.threads == "single"


def test_a_pass_and_what_is_kept_of_it(lab: Lab, freezer: list[Guest]) -> None:
    outcome = run(lab, cpus=5, memory_mib=256, append="quiet", seed=3)
    record = outcome.record
    assert (record.verdict, record.reasons, record.seed) == (Verdict.PASS, (), 3)
    assert (lab.asked.cpus, lab.asked.memory_mib, lab.asked.append) == (5, 256, "quiet")
    assert (record.kernel.spec, record.kernel.release) == ("debian:7.3", "7.3.4-x")
    assert (record.qemu.version, record.qemu.threads) == ("10.0.2", "multi")
    assert record.ledger["injected"] == 48
    assert record.ledger["balanced"] is True
    assert sum(cpu.delivered for cpu in record.per_cpu) == sum(outcome.socket.values()) == 48
    assert lab.guest.closed == 1
    assert freezer == []
    kept = {path.name for path in record.artifacts.iterdir()}
    assert kept == PASSED
    page = (record.artifacts / "report.html").read_text()
    assert "qemu -smp 4" in page
    assert f"cpumap-lab rerun {record.artifacts}" in page
    kept_run = json.loads((record.artifacts / "run.json").read_text())
    assert {key: kept_run[key] for key in record.to_json()} == record.to_json()
    assert kept_run["recipe"] == outcome.recipe
    assert kept_run["recipe"]["kernel"] == {
        "release": "7.3.4-x",
        "version": "7.3.4-1",
        "sha256": "ab" * 32,
    }
    assert (kept_run["recipe"]["initramfs"], kept_run["recipe"]["argv"]) == (
        "cd" * 32,
        ["qemu", "-smp", "4"],
    )
    assert "kernel:\n- debian:7.3\n" in (record.artifacts / "scenario.yaml").read_text()
    assert json.loads((record.artifacts / "ledger.json").read_text())["balanced"]


def test_results_go_where_one_wants_them(lab: Lab, tmp_path: Path) -> None:
    root = tmp_path / "new" / "mine"
    record = run_scenario(lab, scenario(), "debian:7.3", root=root).record  # type: ignore[arg-type]
    assert record.artifacts is not None
    assert record.artifacts.parent == root
    assert (record.artifacts / "report.html").exists()


def test_expectations(lab: Lab) -> None:
    per_cpu = {cpu.cpu: cpu.delivered for cpu in run(lab).record.per_cpu if cpu.delivered}
    met = {"delivered": per_cpu, "dropped": {}, "aborted": 0, "passed": 0}
    assert run(lab, cpus=8, expect=met).record.verdict is Verdict.PASS
    assert run(lab, expect={"delivered": 48, "dropped": 0}).record.verdict is Verdict.PASS
    unmet = {"delivered": {1: 4}, "dropped": 3, "aborted": 1}
    record = run(lab, expect=unmet).record
    assert record.verdict is Verdict.FAIL
    assert record.reasons[0] == "delivered on CPU 1: expected 4 frames, found 0"
    assert "delivered on CPU 2: expected 0 frames, found" in record.reasons[1]
    assert record.reasons[-2:] == (
        "dropped: expected 3 frames, found 0",
        "aborted: expected 1 frames, found 0",
    )
    assert {path.name for path in record.artifacts.iterdir()} == FAILED
    assert (record.artifacts / "why.txt").read_text().splitlines()[:2] == [
        "verdict: fail",
        record.reasons[0],
    ]
    assert (record.artifacts / "qemu.txt").read_text() == "qemu\n-smp\n4\n"
    repeat = (record.artifacts / "repeat.txt").read_text()
    assert repeat == f"cpumap-lab rerun {record.artifacts}\n"


def test_books_out_of_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, known = World(Plan(socket=True)).run()
    evidence.arrived.count[7] = 0
    evidence.arrived.cpu[7] = 0
    lab = steered(monkeypatch, Lab(), close_books(evidence, known))
    outcome = run(lab)
    assert outcome.record.verdict is Verdict.FAIL
    assert outcome.imbalances
    assert set(outcome.imbalances) <= set(outcome.record.reasons)


def test_a_kthread_that_stays_is_a_failure(lab: Lab) -> None:
    lab.guest.left = [{7: "cpumap/2/map:3", 8: "cpumap/1/map:3"}]
    record = run(lab).record
    assert record.verdict is Verdict.FAIL
    assert record.reasons == (
        "kthreads that outlive their map: cpumap/1/map:3, cpumap/2/map:3",
        "guest idle: no CPU runs",
    )
    assert lab.guest.waited_for == ["there are 2 cpumap kthreads after 0 s, not 0"]
    assert json.loads((record.artifacts / "run.json").read_text())["hang"] == "guest idle"
    assert (record.artifacts / "hang.txt").read_text() == HANG.text


def test_a_guest_that_takes_no_frames_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest()
    record = run(steered(monkeypatch, Lab(guest), TrafficStalled("it takes none"))).record
    assert record.verdict is Verdict.INVALID
    assert record.reasons == ("it takes none", "guest idle: no CPU runs")
    assert record.hang == "guest idle"
    assert (record.artifacts / "guest.state.gz").read_bytes() == b"ram"


def test_a_boot_that_hangs_says_why(lab: Lab) -> None:
    lab.no_guest = BootFailed("no init", phase="kernel", console="Linux\n", hang=HANG)
    record = run(lab).record
    assert record.reasons == ("no init\n  guest idle: no CPU runs",)
    assert (record.hang, record.verdict) == ("guest idle", Verdict.INVALID)
    assert (record.artifacts / "hang.txt").read_text() == HANG.text


def test_a_kernel_that_complains_has_crashed(lab: Lab) -> None:
    lab.guest.said += OOPS
    record = run(lab).record
    assert record.verdict is Verdict.CRASH
    assert "NULL pointer" in record.reasons[0]
    assert "NULL pointer" in (record.artifacts / "dmesg.txt").read_text()
    assert (record.artifacts / "guest.state.gz").read_bytes() == b"ram"
    assert not any(cache_dir("run").iterdir())


INT3 = "[    2.000001] Oops: int3: 0000 [#1] PREEMPT SMP\n"


def test_a_run_that_the_emulator_spoiled_is_made_again(lab: Lab, tmp_path: Path) -> None:
    spoiled, good = Guest(said=INT3), lab.guest
    guests = [spoiled, good]
    lab.open = lambda *_: guests.pop(0)  # type: ignore[method-assign]
    outcome = run(lab)
    assert (outcome.record.verdict, outcome.record.reasons) == (Verdict.PASS, ())
    assert (spoiled.closed, good.closed) == (1, 1)
    first = next(path for path in (tmp_path / "results").iterdir() if (path / "why.txt").exists())
    oops = "oops: Oops: int3: 0000 [#1] PREEMPT SMP"
    assert outcome.again == f"{oops}: {EMULATORS_FAULT}; kept in {first}"
    assert (first / "why.txt").read_text() == f"verdict: invalid\n{oops}\n{EMULATORS_FAULT}\n"
    told = json.loads((outcome.record.artifacts / "run.json").read_text())
    assert told["notes"] == [f"run again: {outcome.again}"] == list(outcome.notes)


def test_a_kernel_that_dies_so_again_has_crashed(lab: Lab) -> None:
    lab.guest.said += INT3
    record = run(lab).record
    assert (record.verdict, lab.guest.closed) == (Verdict.CRASH, 2)
    assert EMULATORS_FAULT not in record.reasons


def test_last_words_make_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(console=PANIC, lost=True)
    record = run(steered(monkeypatch, Lab(guest), AgentLost("no answer"))).record
    assert record.verdict is Verdict.CRASH
    assert "Fatal exception" in record.reasons[0]
    assert record.reasons[-1] == "no answer"
    assert (record.artifacts / "console.log").read_text() == PANIC
    assert (record.ledger, record.per_cpu) == (None, ())
    assert guest.closed == 1


def test_a_call_that_fails_in_a_dying_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    error = GuestError("bpf failed", errno=12)
    assert run(steered(monkeypatch, Lab(Guest(said=OOPS)), error)).record.verdict is Verdict.CRASH
    record = run(steered(monkeypatch, Lab(), error)).record
    assert (record.verdict, record.reasons) == (Verdict.INVALID, ("bpf failed",))
    lost = Lab(Guest(console=PANIC, lost=True))
    assert run(steered(monkeypatch, lost, error)).record.verdict is Verdict.CRASH


def test_no_boot(lab: Lab) -> None:
    lab.no_guest = BootFailed("it hangs", phase="kernel", console="Linux version\n")
    record = run(lab).record
    assert record.verdict is Verdict.INVALID
    assert (record.artifacts / "console.log").read_text() == "Linux version\n"
    lab.no_guest = BootFailed("it died", phase="kernel", console=PANIC, crashed=True)
    assert run(lab).record.verdict is Verdict.CRASH


def test_no_kernel(lab: Lab) -> None:
    lab.no_kernel = FetchFailed("no route to the archive")
    record = run(lab).record
    assert record.verdict is Verdict.INVALID
    assert (record.kernel.release, record.qemu.version) == (None, None)
    assert "-mine-debian-7.3-" in record.artifacts.name
    lab.no_kernel = KernelNotFound("there is none")
    with pytest.raises(KernelNotFound):
        run(lab)


def test_a_feature_that_the_kernel_lacks_is_skipped(lab: Lab) -> None:
    lab.numbers = (5, 10, 262)
    record = run(lab, steer={"mode": "generic"}).record
    assert record.verdict is Verdict.SKIP
    assert "since 5.15" in record.reasons[0]
    assert lab.asked is None
    assert run(lab).record.verdict is Verdict.PASS


def test_a_full_disk_takes_no_verdict_away(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CacheError("no space")

    monkeypatch.setattr(runner, "keep_results", fail)
    outcome = run(lab)
    assert (outcome.record.verdict, outcome.record.artifacts) == (Verdict.PASS, None)
    assert outcome.not_kept == "no space"


def test_an_interrupt_closes_the_guest_and_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    lab = steered(monkeypatch, Lab(), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(lab)
    assert lab.guest.closed == 1
    assert not (cache / "results").exists()
