"""What is measured, and in which order."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from harness.bench import traffic
from harness.bench.boots import CLONES_PER_ROUND, clone_up, cold_boot, template
from harness.bench.load import name_limit
from harness.bench.report import BOOT, CLONE, OWN, PEER, PEER_QEMU, Findings
from harness.bench.series import first_line, summarise
from harness.bench.virtme import Peer
from harness.errors import BootFailed, ToolMissing
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from harness.bench.series import Trial
    from harness.bench.traffic import Injection
    from harness.machine.machine import Recipe


def cores() -> int:
    """Return how many of the host's cores this process may use."""
    return len(os.sched_getaffinity(0))


def measure_boots(
    findings: Findings,
    recipe: Recipe,
    standard: Recipe | None,
    rounds: int,
    say: Callable[[str], None],
) -> None:
    """Measure a kernel's cold boot and clone, and the boot of another beside virtme-ng's.

    Args:
        findings: where the figures go.
        recipe: of the guest to boot and clone.
        standard: of the guest that virtme-ng boots, too; None without virtme-ng.
        rounds: how many times; one more goes before and does not count, to warm the caches.
        say: told what goes on.
    """
    say(f"making ready: {recipe.kernel.release}")
    snapshot = template(recipe)
    clone_up(recipe, snapshot)

    def boot() -> Mapping[str, Sequence[float]]:
        seconds = cold_boot(recipe)
        same = standard is not None and standard.digest() == recipe.digest()
        return {BOOT: [seconds], OWN: [seconds]} if same else {BOOT: [seconds]}

    trials: dict[str, Trial] = {
        BOOT: boot,
        CLONE: lambda: {CLONE: [clone_up(recipe, snapshot) for _ in range(CLONES_PER_ROUND)]},
    }
    with _scratch() as scratch:
        if standard is not None:
            trials |= _beside_virtme(findings, standard, recipe, scratch, say)
        findings.boots.run(trials, rounds, say)


def _beside_virtme(
    findings: Findings, standard: Recipe, recipe: Recipe, scratch: Path, say: Callable[[str], None]
) -> dict[str, Trial]:
    """Return the trials that compare with virtme-ng; none, and why, if it does not boot here."""
    say(f"making ready: virtme-ng and {standard.kernel.release}")
    try:
        peer = Peer.found(standard, scratch)
        peer.boot()
    except (ToolMissing, BootFailed) as error:
        findings.peer = first_line(error.message)
        return {}
    findings.peer = ""

    def beside() -> Mapping[str, Sequence[float]]:
        boot = peer.boot()
        return {PEER: [boot.seconds], PEER_QEMU: [boot.qemu_seconds]}

    own: dict[str, Trial] = {OWN: lambda: {OWN: [cold_boot(standard)]}}
    return {**({} if standard.digest() == recipe.digest() else own), PEER: beside}


def measure_traffic(
    findings: Findings, recipe: Recipe, rounds: int, say: Callable[[str], None]
) -> None:
    """Measure each stage of a frame's way, and name the limit of the whole.

    Raises:
        TrafficError: not every frame is proven to have arrived.
    """
    frames = findings.frames
    snapshot = template(recipe)
    sample = traffic.sample_frames(recipe, frames)
    kept: dict[str, list[Injection]] = {stage: [] for stage in traffic.STAGES}

    def trial(stage: str, inject: Callable[[], Injection]) -> Trial:
        def run() -> Mapping[str, Sequence[float]]:
            injection = inject()
            kept[stage].append(injection)
            return {stage: [injection.rate]}

        return run

    ways: tuple[Callable[[], Injection], ...] = (
        lambda: traffic.send_only(sample),
        lambda: traffic.send_to_qemu(recipe.qemu, sample),
        lambda: traffic.send_to_guest(recipe, snapshot, frames, drop=True),
        lambda: traffic.send_to_guest(recipe, snapshot, frames),
    )
    trials = {stage: trial(stage, way) for stage, way in zip(traffic.STAGES, ways, strict=True)}
    findings.traffic.run(trials, rounds, say)
    findings.loads = {
        stage: load for stage, runs in kept.items() if runs and (load := middle(runs).load)
    }
    whole = kept["cpumap"]
    if whole:
        findings.sending = summarise([run.frames / run.send_s for run in whole])
        findings.limit = name_limit(findings.loads["cpumap"], cores())


def middle(runs: Sequence[Injection]) -> Injection:
    """Return the run with the median rate (of two, the slower)."""
    return sorted(runs, key=lambda run: run.rate)[(len(runs) - 1) // 2]


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    # named like a machine's, so that it is swept like one if we are killed
    directory = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=cache_dir("run")))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
