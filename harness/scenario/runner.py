"""Run one scenario on one kernel, from the kernel's spec to what is kept of the run."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pexpect

from harness.errors import AgentLost, BootFailed, CacheError, LabError
from harness.judge import Judgement, judge, judge_error
from harness.machine.splats import Splat, find_splats
from harness.machine.topology import Topology
from harness.model.gates import STACK_KNOWS_CPUMAP_GENERIC
from harness.plan import Plan
from harness.remains import freeze_guest, frozen_room, tell
from harness.report.files import make_files
from harness.report.record import (
    KernelRecord,
    QemuRecord,
    RunRecord,
    record_cpus,
    record_ledger,
)
from harness.scenario.expect import find_failures
from harness.scenario.load import dump_scenario
from harness.scenario.results import keep_results, name_results
from harness.steering import Steering
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness.guest import Guest
    from harness.kernels import KernelImage
    from harness.lab import Lab
    from harness.scenario.schema import Scenario
    from harness.trace.books import Books

MISS_FLAGS = {"aborted": 0, "drop": 1, "pass": 2, "tx": 3}
"""`enum xdp_action` in the low bits of bpf_redirect_map's flags."""
DRAIN_FRAMES = 8192
"""The guest's trace buffers are read so often while frames go in, for they would overrun."""
LAST_WORDS_S = 5.0
GONE_S = 30.0
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told how a run gets on.

    Attributes:
        say: told what begins now, in a few words.
        advance: told how much of it is done, and of how much.
    """

    say: Callable[[str], None] = lambda _: None
    advance: Callable[[int, int], None] = lambda _done, _total: None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run.

    Attributes:
        record: what is told of it.
        imbalances: what does not balance in its books.
        socket: frames that its socket received, by CPU; None without one.
        not_kept: why its results could not be kept; "" when they were.
    """

    record: RunRecord
    imbalances: tuple[str, ...] = ()
    socket: Mapping[int, int] | None = None
    not_kept: str = ""


@dataclass(slots=True)
class _Found:
    """What a run has brought to light so far, however it ends."""

    room: Path
    kernel: KernelImage | None = None
    qemu: QemuRecord = field(default_factory=QemuRecord)
    guest: Guest | None = None
    steering: Steering | None = None
    books: Books | None = None
    console: str = ""
    dmesg: str = ""
    frozen: dict[str, Path] = field(default_factory=dict)

    @property
    def splats(self) -> list[Splat]:
        # dmesg has what was printed before a snapshot, a dying guest's console what came last
        return find_splats(self.dmesg) or find_splats(self.console)


def run_scenario(lab: Lab, scenario: Scenario, spec: str, watch: Watch | None = None) -> Outcome:
    """Run a scenario on a kernel, judge it, and keep its results.

    Args:
        lab: makes the guest.
        scenario: what to run.
        spec: the kernel.
        watch: told how it gets on.

    Raises:
        UserError: the kernel spec names nothing that can run the scenario. Whatever else goes
            wrong is the run's verdict.
    """
    scenario = scenario.model_copy(update={"kernel": (spec,)}).expand()
    with frozen_room() as room:
        return _run(lab, scenario, spec, _Found(room), watch or Watch())


def _run(lab: Lab, scenario: Scenario, spec: str, found: _Found, watch: Watch) -> Outcome:
    start = time.monotonic()
    try:
        judgement = _carry_through(lab, scenario, spec, found, watch)
    except LabError as error:
        judgement = judge_error(error, found.splats)
    record = RunRecord(
        name=scenario.name,
        verdict=judgement.verdict,
        reasons=judgement.reasons,
        kernel=_record_kernel(spec, found.kernel),
        qemu=found.qemu,
        ledger=record_ledger(found.books),
        per_cpu=record_cpus(found.books),
        seed=scenario.seed,
        duration_s=time.monotonic() - start,
        artifacts=None,
    )
    not_kept = ""
    try:
        record = _keep(record, scenario, found)
    except CacheError as error:  # a full disk takes no verdict away
        not_kept = str(error)
    books = found.books
    if books is None:
        return Outcome(record, not_kept=not_kept)
    socket = {row.cpu: row.socket for row in books.per_cpu if row.socket is not None}
    imbalances = tuple(str(imbalance) for imbalance in books.imbalances)
    return Outcome(record, imbalances, None if books.socket is None else socket, not_kept)


def _carry_through(
    lab: Lab, scenario: Scenario, spec: str, found: _Found, watch: Watch
) -> Judgement:
    watch.say(f"looking for {spec}")
    found.kernel = lab.kernel(spec)
    gate = STACK_KNOWS_CPUMAP_GENERIC
    if scenario.steer.mode == "generic" and not gate.holds(found.kernel.numbers):
        why = f"{gate.what}: since {'.'.join(map(str, gate.since))} ({gate.source})"
        return Judgement(Verdict.SKIP, (f"{found.kernel.release}: {why}",))
    watch.say("looking for QEMU and its accelerator")
    version = ".".join(map(str, lab.qemu.version))
    found.qemu = QemuRecord(version, lab.accel.name, lab.threads)
    topology = Topology(scenario.cpus, scenario.memory_mib, append=scenario.append)
    watch.say(f"booting {found.kernel.release}")
    try:
        guest = lab.open(spec, topology)
    except BootFailed as error:
        found.console = error.console
        raise
    found.guest = guest
    with guest:
        try:
            failures = _steer(guest, scenario, found, watch)
            found.dmesg, found.console = guest.dmesg(), guest.machine.console.text()
            judgement = judge([found.books] if found.books else [], found.splats, failures)
        except LabError as error:
            _hear_last_words(guest, error, found)
            judgement = judge_error(error, found.splats)
        if judgement.verdict in (Verdict.FAIL, Verdict.CRASH):
            watch.say("freezing the guest as it is")
            found.frozen = freeze_guest(guest, found.room)
    return judgement


def _steer(guest: Guest, scenario: Scenario, found: _Found, watch: Watch) -> list[str]:
    """Do what the scenario says and return what it expected and did not get."""
    plan = Plan(
        scenario.targets,
        {entry.cpu: entry.qsize for entry in scenario.entries},
        by=scenario.steer.by,
        mode=scenario.steer.mode,
        flags=MISS_FLAGS[scenario.steer.miss],
        frames=scenario.frames,
        socket=scenario.socket,
    )
    found.steering = steering = Steering(guest, plan)
    flows = [steering.flow(**flow.model_dump(exclude_none=True)) for flow in scenario.traffic]

    def advance(sent: int) -> None:
        watch.advance(sent, scenario.frames)
        if sent % DRAIN_FRAMES == 0:
            guest.tracer.drain()

    watch.say(f"sending {scenario.frames} frames")
    steering.send(flows, rate=scenario.rate, progress=advance)
    watch.say("closing the books")
    found.books = steering.close()
    failures = find_failures(scenario.expect, found.books)
    watch.say("waiting for the kthreads to end")
    steering.dismantle()
    if left := _wait_gone(guest):
        failures.append(f"kthreads that outlive their map: {', '.join(left)}")
    return failures


def _wait_gone(guest: Guest) -> list[str]:
    """Wait until no cpumap kthread is left, and return those that are at the deadline.

    They end on their own time: an RCU grace period, a workqueue, the ring run empty.
    """
    deadline = time.monotonic() + GONE_S * guest.machine.recipe.accel.pace
    while (left := guest.threads("cpumap/")) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return sorted(left.values())


def _hear_last_words(guest: Guest, error: LabError, found: _Found) -> None:
    """Take down what a guest says that may be dying; its console may still be printing."""
    wait_s = LAST_WORDS_S * guest.machine.recipe.accel.pace
    lost = isinstance(error, AgentLost)
    if not lost:
        try:
            guest.calls.link.call("read", "/proc/uptime", 64, deadline_s=wait_s)
            found.dmesg = guest.dmesg()
        except LabError:
            lost = True
    if lost:
        guest.machine.console.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=wait_s)
    found.console = guest.machine.console.text()


def _keep(record: RunRecord, scenario: Scenario, found: _Found) -> RunRecord:
    """Write a run's results and return its record, which says where they are."""
    kernel = record.kernel.release or record.kernel.spec
    directory = name_results(record.name, kernel)
    record = dataclasses.replace(record, artifacts=directory)
    story = tell(
        record,
        found.guest,
        found.steering,
        found.books,
        console=found.console,
        dmesg=found.dmesg,
        repeat=f"cpumap-lab run {directory / 'scenario.yaml'}",
    )
    files = make_files(story) | {"scenario.yaml": dump_scenario(scenario)}
    keep_results(directory, files, found.frozen)
    return record


def _record_kernel(spec: str, image: KernelImage | None) -> KernelRecord:
    return KernelRecord(spec, image.release, image.sha256) if image else KernelRecord(spec)
