"""Choose the accelerator by making each candidate run 64-bit code, in bounded time.

That /dev/kvm exists and opens proves nothing: software KVMs abort on a CPU model, spin in the
firmware, or run paged 64-bit code many times slower than TCG does. So a canary (guest/canary)
enters long mode, works for a moment and leaves; the quicker accelerator is taken.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import LabError, QemuFailed
from harness.landing import cache_errors, write_atomically
from harness.machine.process import Process, how_ended
from harness.machine.topology import Accel
from harness.paths import built, cache_dir

if TYPE_CHECKING:
    from harness.machine.qemu import Qemu

CANARY_STATUS = 99
TCG_LIMIT_S = 60.0
KVM_LIMIT_S = 3.0
REFERENCE_S = 0.3
"""What the canary takes under TCG on an idle machine of the kind that deadlines were set on."""
MTTCG_SINCE = (8, 0, 0)
"""Older QEMUs (7.2 was measured) break static keys of 6.x kernels now and then under MTTCG."""
KVM_DEVICE = Path("/dev/kvm")


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One run of the canary: seconds taken, or what went wrong (then `seconds` is None)."""

    seconds: float | None
    said: str


def choose_accel(qemu: Qemu) -> Accel:
    """Return the accelerator for this QEMU on this machine; probed once per boot of the machine.

    Raises:
        QemuFailed: not even TCG runs the canary.
        ToolMissing: the canary has not been built.
    """
    canary = built("canary")
    known = cache_dir("accel") / f"{_fingerprint(qemu, canary)}.json"
    try:
        return Accel(**json.loads(known.read_text()))
    except (OSError, ValueError, TypeError):
        accel = _probe(qemu, canary)
        write_atomically(known, json.dumps(dataclasses.asdict(accel)).encode())
        return accel


def _probe(qemu: Qemu, canary: Path) -> Accel:
    threads = "multi" if qemu.version >= MTTCG_SINCE else "single"
    tcg = _run_canary(qemu, canary, ["-accel", f"tcg,thread={threads}"], TCG_LIMIT_S)
    if tcg.seconds is None:
        raise QemuFailed(
            f"{qemu.binary} does not run 64-bit code even under TCG: {tcg.said}",
            remedy="run `cpumap-lab qemu fetch`, or set CPUMAP_LAB_QEMU to another QEMU",
        )
    pace = max(1.0, tcg.seconds / REFERENCE_S)
    why = f"TCG runs the 64-bit canary in {tcg.seconds:.2f} s"
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        reason = "not accessible" if KVM_DEVICE.exists() else "absent"
        return Accel("tcg", threads, f"/dev/kvm is {reason}; {why}", "qemu64", pace)
    limit = max(KVM_LIMIT_S, 2 * tcg.seconds)
    kvm = _run_canary(qemu, canary, ["-accel", "kvm", "-cpu", "host"], limit)
    if kvm.seconds is None:
        return Accel("tcg", threads, f"KVM fails the canary ({kvm.said}); {why}", "qemu64", pace)
    if kvm.seconds > tcg.seconds:
        why = f"KVM takes {kvm.seconds:.2f} s for the canary; {why}"
        return Accel("tcg", threads, why, "qemu64", pace)
    return Accel("kvm", "", f"KVM runs the canary in {kvm.seconds:.2f} s; {why}", "host", 1.0)


def _run_canary(qemu: Qemu, canary: Path, accel: list[str], limit_s: float) -> Trial:
    bare = ["-nodefaults", "-no-user-config", "-display", "none", "-m", "64M", "-no-reboot"]
    leave = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(canary)]
    argv = [str(qemu.binary), *qemu.args, *accel, *bare, *leave]
    runs = cache_dir("run")
    with cache_errors(str(runs)):
        place = tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=runs)
    with place as scratch:
        start = time.monotonic()
        try:
            process = Process(argv, env=qemu.env, pass_fds=(), log=Path(scratch) / "qemu.log")
        except LabError as error:
            return Trial(None, error.message)
        try:
            status = process.wait(limit_s)
            seconds = time.monotonic() - start
            if status == CANARY_STATUS:
                return Trial(seconds, "")
            if status is None:
                return Trial(None, f"no end within {limit_s:.0f} s")
            how = how_ended(status)
            first = process.output().partition("\n")[0]
            return Trial(None, f"{how}: {first}" if first else how)
        finally:
            process.kill()


def _fingerprint(qemu: Qemu, canary: Path) -> str:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text()
    parts = (qemu.sha256, boot_id, hashlib.sha256(canary.read_bytes()).hexdigest())
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
