"""Run one scenario on one kernel, from the kernel's spec to what is kept of the run."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import AgentLost, BootFailed, CacheError, LabError, UserError
from harness.judge import Judgement, judge, judge_error, tell_emulator, tell_hang, why_again
from harness.machine.splats import Splat, find_splats
from harness.machine.topology import Topology
from harness.remains import freeze_guest, frozen_room, tell, worth_freezing
from harness.report.expected import compare
from harness.report.files import make_files
from harness.report.record import (
    KernelRecord,
    QemuRecord,
    RunRecord,
    record_cpus,
    record_ledger,
)
from harness.scenario.expect import Sight, find_failures, find_queues
from harness.scenario.load import dump_data, dump_scenario
from harness.scenario.play import Play
from harness.scenario.recipe import digest_files, tell_recipe
from harness.scenario.results import FORMAT, keep_results, name_results
from harness.scenario.schema import NEEDS
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from harness.guest import Guest
    from harness.kernels import KernelImage
    from harness.kernels.image import RunningKernel
    from harness.lab import Lab
    from harness.machine.hang.findings import Hang
    from harness.scenario.schema import Scenario
    from harness.steering import Steering
    from harness.target.lab import TargetLab
    from harness.trace.books import Books
    from harness.trace.latency import Waits

LAST_WORDS_S = 5.0
GONE_S = 30.0
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told how a run gets on.

    Attributes:
        say: told what begins now, in a few words.
        advance: told how much of it is done, and of how much.
        fetch: told how a download gets on.
        tell: told what the reader has to know at once.
    """

    say: Callable[[str], None] = lambda _: None
    advance: Callable[[int, int], None] = lambda _done, _total: None
    fetch: Callable[[str, int, int], None] = lambda _what, _done, _total: None
    tell: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run.

    Attributes:
        record: what is told of it.
        imbalances: what does not balance in its books.
        socket: frames that its socket received, by CPU; None without one.
        not_kept: why its results could not be kept; "" when they were.
        notes: what else the reader has to know.
        recipe: what the run was made from, as run.json has it.
        error: what ended it before it was carried through, if anything did.
        again: why it was run once more, if it was.
    """

    record: RunRecord
    imbalances: tuple[str, ...] = ()
    socket: Mapping[int, int] | None = None
    not_kept: str = ""
    notes: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    error: LabError | None = None
    again: str = ""


@dataclass(slots=True)
class _Found:
    """What a run has brought to light so far, however it ends."""

    room: Path
    root: Path | None = None
    again: str = ""
    kernel: KernelImage | RunningKernel | None = None
    qemu: QemuRecord = field(default_factory=QemuRecord)
    guest: Guest | None = None
    steering: Steering | None = None
    books: Books | None = None
    console: str = ""
    dmesg: str = ""
    frozen: dict[str, Path] = field(default_factory=dict)
    initramfs: str | None = None
    qemu_sha256: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    queues: dict[int, list[int]] = field(default_factory=dict)
    late: Waits | None = None
    error: LabError | None = None
    hang: Hang | None = None

    @property
    def splats(self) -> list[Splat]:
        # dmesg has what was printed before a snapshot, a dying guest's console what came last
        return find_splats(self.dmesg) or find_splats(self.console)


def run_scenario(
    lab: Lab | TargetLab,
    scenario: Scenario,
    spec: str,
    watch: Watch | None = None,
    *,
    root: Path | None = None,
) -> Outcome:
    """Run a scenario on a kernel, judge it, and keep its results.

    A run that the emulator spoiled is kept, too, and made once more: that is the one that counts.

    Args:
        lab: makes the guest, or is that of its target.
        scenario: what to run.
        spec: the kernel, or the target.
        watch: told how it gets on.
        root: where its results go; None is in the cache.

    Raises:
        UserError: the kernel spec, or the target, is nothing that can run the scenario. Whatever
            else goes wrong is the run's verdict.
    """
    if not scenario.target:
        scenario = scenario.model_copy(update={"kernel": (spec,)})
    scenario, watch = scenario.expand(), watch or Watch()
    with frozen_room() as room:
        outcome = _run(lab, scenario, spec, _Found(room, root), watch)
    why = why_again(outcome.record.reasons)
    if not why:
        return outcome
    watch.say("running it again: the emulator spoiled it")
    if kept := outcome.record.artifacts:
        why += f"; kept in {kept}"
    with frozen_room() as room:
        found = _Found(room, root, again=why, notes=[f"run again: {why}"])
        return _run(lab, scenario, spec, found, watch)


def _run(
    lab: Lab | TargetLab, scenario: Scenario, spec: str, found: _Found, watch: Watch
) -> Outcome:
    start = time.monotonic()
    try:
        judgement = _carry_through(lab, scenario, spec, found, watch)
    except LabError as error:
        found.error = error
        found.hang = error.hang
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
        hang=found.hang.kind.value if found.hang else None,
    )
    not_kept = ""
    try:
        record = _keep(record, scenario, found)
    except CacheError as error:  # a full disk takes no verdict away
        not_kept = str(error)
    books, imbalances, socket = found.books, tuple[str, ...](), None
    if books is not None:
        imbalances = tuple(str(imbalance) for imbalance in books.imbalances)
        if books.socket is not None:
            socket = {row.cpu: row.socket for row in books.per_cpu if row.socket is not None}
    recipe, notes = _record_recipe(found), tuple(found.notes)
    return Outcome(
        record, imbalances, socket, not_kept, notes, recipe, found.error, again=found.again
    )


def _carry_through(
    lab: Lab | TargetLab, scenario: Scenario, spec: str, found: _Found, watch: Watch
) -> Judgement:
    watch.say(f"looking for {spec}")
    found.kernel = lab.kernel(spec)
    needs = {*scenario.needs, *scenario.modes, *(["frags"] if scenario.frags else [])}
    for need in needs & NEEDS.keys():
        gate = NEEDS[need]
        if not gate.holds(found.kernel.numbers):
            why = f"{gate.what}: since {'.'.join(map(str, gate.since))} ({gate.source})"
            return Judgement(Verdict.SKIP, (f"{found.kernel.release}: {why}",))
    topology = Topology(
        scenario.cpus,
        scenario.memory_mib,
        nics=len(scenario.nics),
        append=scenario.append,
        nodes=scenario.nodes,
        taps=scenario.taps,
        ssh=scenario.ssh,
        spare_cpus=scenario.spare_cpus,
        pluggable=scenario.pluggable,
        launcher=scenario.launcher,
    )
    if lab.qemu:
        watch.say("looking for QEMU and its accelerator")
        version = ".".join(map(str, lab.qemu.version))
        found.qemu = QemuRecord(version, lab.accel.name, lab.threads_of(topology))
        found.qemu_sha256 = lab.qemu.sha256
    try:
        found.files = digest_files(scenario)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    verb = "starting an agent on" if scenario.target else "booting"
    watch.say(f"{verb} {found.kernel.release}")
    try:
        guest = lab.open(spec, topology)
    except BootFailed as error:
        found.console = error.console
        raise
    found.guest = guest
    with guest:
        found.initramfs = guest.machine.initramfs
        found.argv = tuple(guest.machine.argv)
        try:
            if scenario.ssh:
                _open_door(guest, watch)
            failures = _steer(guest, scenario, found, watch)
            found.dmesg, found.console = guest.dmesg(), guest.machine.console.text()
            judgement = judge([found.books] if found.books else [], found.splats, failures)
        except LabError as error:
            found.error = error
            guest.look_into(error)
            _hear_last_words(guest, error, found)
            judgement = judge_error(error, found.splats)
        found.hang = guest.machine.hang
        judgement = tell_emulator(judgement, guest.machine.threads, again=bool(found.again))
        judgement = tell_hang(judgement, found.hang)
        if worth_freezing(guest, judgement.verdict) and not found.frozen:
            watch.say("freezing the guest as it is")
            found.frozen = freeze_guest(guest, found.room)
    return judgement


def _open_door(guest: Guest, watch: Watch) -> None:
    """Let people log in to a guest while it runs, and say how."""
    from harness.sshd import open_door  # noqa: PLC0415 - paramiko takes a while to import

    watch.say("starting the guest's sshd")
    watch.tell(f"log in: {open_door(guest.own, progress=watch.fetch).line}")


def _steer(guest: Guest, scenario: Scenario, found: _Found, watch: Watch) -> list[str]:
    """Do what the scenario says and return what it expected and did not get."""
    play = Play(guest, scenario)
    found.steering = play.steering
    watch.say(f"sending {scenario.frames} frames")
    play.run(lambda sent: watch.advance(sent, scenario.frames))
    watch.say("closing the books")
    steering = play.steering
    found.books = steering.close()
    found.notes += play.notes
    found.late = play.late
    kthreads = _wait_kthreads(guest, scenario.expect.kthreads)
    sight = Sight(steering.sightings(), steering.arrivals(), steering.traffic.flows, len(kthreads))
    if any(scenario.taps):
        found.queues = find_queues(sight)
    failures = [*play.failures, *find_failures(scenario.expect, found.books, sight)]
    if judge([found.books], [], failures).verdict is Verdict.FAIL:
        watch.say("freezing the guest as it is")  # while it still has the maps
        found.frozen = freeze_guest(guest, found.room, go_on=True)
    watch.say("waiting for the kthreads to end")
    steering.dismantle()
    if not play.rewrites and (damaged := steering.damaged()):
        failures.append(f"{len(damaged)} payloads were damaged: {damaged[:16]}")
    if left := _wait_kthreads(guest, 0):
        failures.append(f"kthreads that outlive their map: {', '.join(left)}")
    return failures


def _wait_kthreads(guest: Guest, wanted: int | None) -> list[str]:
    """Wait until there are so many cpumap kthreads, and return those that are at the deadline.

    They end on their own time: an RCU grace period, a workqueue, the ring run empty.
    """
    limit = GONE_S * guest.machine.pace
    deadline = time.monotonic() + limit
    while True:
        there = sorted(guest.threads("cpumap/").values())
        if wanted in (None, len(there)):
            return there
        if time.monotonic() >= deadline:
            what = f"there are {len(there)} cpumap kthreads after {limit:.0f} s, not {wanted}"
            guest.machine.examine(what)
            return there
        time.sleep(POLL_S)


def _hear_last_words(guest: Guest, error: LabError, found: _Found) -> None:
    """Take down what a guest says that may be dying; its console may still be printing."""
    wait_s = LAST_WORDS_S * guest.machine.pace
    lost = isinstance(error, AgentLost)
    if not lost:
        try:
            guest.calls.link.call("read", "/proc/uptime", 64, deadline_s=wait_s)
            found.dmesg = guest.dmesg()
        except LabError:
            lost = True
    if lost:
        guest.machine.listen(wait_s)
    found.console = guest.machine.console.text()


def _keep(record: RunRecord, scenario: Scenario, found: _Found) -> RunRecord:
    """Write a run's results and return its record, which says where they are."""
    kernel = record.kernel.release or record.kernel.spec
    directory = name_results(record.name, kernel, found.root)
    record = dataclasses.replace(record, artifacts=directory)
    story = tell(
        record,
        found.guest,
        found.steering,
        found.books,
        console=found.console,
        dmesg=found.dmesg,
        repeat=f"cpumap-lab rerun {directory}",
        expectations=compare(
            scenario.expect.model_dump(exclude_defaults=True), found.books, record.reasons
        ),
        hang=found.hang,
    )
    again = {
        **record.to_json(),
        "format": FORMAT,
        "recipe": _record_recipe(found),
        "scenario": dump_data(scenario),
        "notes": found.notes,
        "rx_queues": found.queues,
        "late_us": asdict(found.late) if found.late else None,
        "wait_us": {cpu: asdict(waits) for cpu, waits in story.waits.items()},
    }
    files = make_files(story) | {
        "run.json": json.dumps(again, indent=1),
        "scenario.yaml": dump_scenario(scenario),
    }
    keep_results(directory, files, found.frozen)
    return record


def _record_recipe(found: _Found) -> dict[str, Any]:
    """Return all that a run was made from, as far as it came."""
    return tell_recipe(
        found.kernel,
        found.qemu,
        qemu_sha256=found.qemu_sha256,
        initramfs=found.initramfs,
        files=found.files,
        argv=list(found.argv),
    )


def _record_kernel(spec: str, image: KernelImage | RunningKernel | None) -> KernelRecord:
    return KernelRecord(spec, image.release, image.sha256) if image else KernelRecord(spec)
