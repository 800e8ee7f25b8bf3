"""The kernel's own execution counters (gcov): where they are, out of a guest, and merged.

Every guest is a clone with counters of its own; they are read before it goes. Sources:
Documentation/dev-tools/gcov.rst, kernel/gcov/fs.c.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import AgentLost, KernelNotFound, LabError, ToolMissing, UserError
from harness.kernels.own import build_of
from harness.landing import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.guest import Guest
    from harness.kernels import KernelImage

OBJECT = Path("kernel/bpf/cpumap")
DEBUGFS = Path("/sys/kernel/debug/gcov")
TOOL_S = 60.0
READ_S = 5.0
REMEDY = "`cpumap-lab kernels build --debug gcov --debug failslab` builds one that is"


def notes_of(kernel: KernelImage) -> Path:
    """Return the file (.gcno) by which gcov understands a kernel's counters.

    Raises:
        KernelNotFound: the kernel was not built for that, or not on this machine.
    """
    build = build_of(kernel.vmlinuz)
    notes = build / OBJECT.with_suffix(".gcno") if build else None
    if notes is None or not notes.is_file():
        raise KernelNotFound(
            f"{kernel.spec} was not built to measure coverage, or was moved since: there is no "
            f"{notes or OBJECT.with_suffix('.gcno')}",
            remedy=REMEDY,
        )
    return notes.resolve()


def reset_counters(guest: Guest) -> None:
    """Forget what the guest's kernel has counted so far: its boot is no case's merit.

    Raises:
        KernelNotFound: it counts nothing.
    """
    notes_of(guest.own.kernel)
    guest.write(f"{DEBUGFS}/reset", "0")


def keep_counters(guest: Guest, into: Path) -> None:
    """Keep what the guest's kernel has counted; one that died of its case keeps it to itself.

    Raises:
        KernelNotFound: it counts nothing.
        CacheError: the counters cannot be written.
    """
    notes = notes_of(guest.own.kernel)
    counters = f"{DEBUGFS}{notes.with_suffix('.gcda')}"
    deadline_s = READ_S * guest.machine.pace
    with contextlib.suppress(AgentLost):
        content = guest.calls.link.call("read", counters, 1 << 20, deadline_s=deadline_s)
        write_atomically(into / f"{os.getpid()}-{time.monotonic_ns()}.gcda", content)


def merge(counters: Sequence[Path], notes: Path, into: Path) -> Path:
    """Add up counters, and lay their notes beside the sum.

    Args:
        counters: files of the same object.
        notes: its .gcno.
        into: an existing, empty directory.

    Returns:
        The sum's file.

    Raises:
        UserError: some are of another build of the kernel.
        ToolMissing: there is no gcov-tool.
        LabError: gcov-tool refuses them.
    """
    stamp = _stamp(notes)
    if other := next((file for file in counters if _stamp(file) != stamp), None):
        raise UserError(
            f"{other} was counted by another build of the kernel than that of {notes}",
            remedy="give --counters a directory of its own for each build",
        )
    total = into / OBJECT.with_suffix(".gcda").name
    shutil.copy(notes, into / notes.name)
    shutil.copy(counters[0], total)
    for file in counters[1:]:
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            given = Path(scratch, "given")
            given.mkdir()
            shutil.copy(total, given / total.name)
            more = Path(scratch, "more")
            more.mkdir()
            shutil.copy(file, more / total.name)
            summed = Path(scratch, "summed")
            run_tool("gcov-tool", "merge", "-o", str(summed), str(given), str(more))
            shutil.move(summed / total.name, total)
    return total


def _stamp(file: Path) -> bytes:
    """Return what a compilation marks its notes and counters with (gcc/gcov-io.h)."""
    return file.read_bytes()[8:12]


def run_tool(*argv: str, cwd: Path | None = None) -> bytes:
    """Run one of gcc's coverage tools and return its output.

    Raises:
        ToolMissing: it is not on this machine.
        LabError: it failed.
    """
    if shutil.which(argv[0]) is None:
        raise ToolMissing(
            f"there is no {argv[0]} on this machine, which comes with gcc", remedy="install gcc"
        )
    done = subprocess.run(argv, cwd=cwd, capture_output=True, timeout=TOOL_S, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise LabError(
            f"`{' '.join(argv)}` failed: {said}",
            remedy="counters and gcov must be of the kernel's own compiler and build",
        )
    return done.stdout
