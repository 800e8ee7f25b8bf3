"""A cache to look at, and a way to wait."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness import patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATE_S = 120.0
"""So late that only a bug reaches it."""
UNMERGED = """\
name: unmerged
cpus: 4
socket: false
entries: [{cpu: 2, qsize: 192}]
traffic: [{frames: 20, protocol: tcp, size: 200}]
timeline:
  - {at: 0, do: hold, cpu: 2}
  - {after: offered, do: release, cpu: 2}
expect: {delivered: {2: 20}, skbs: 20}
"""
"""A scenario that only kernels without GRO in cpumap pass (until 6.14)."""


class Cache:
    """A cache directory that no one else uses.

    Attributes:
        root: the directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def snapshots(self) -> list[str]:
        """Return what there is of snapshots, whole or half."""
        room = self.root / "snapshots"
        paths = room.iterdir() if room.exists() else ()
        return sorted(path.name for path in paths if not path.name.endswith(".lock"))

    def runs(self) -> list[str]:
        """Return what there is of running machines' files."""
        room = self.root / "run"
        return sorted(path.name for path in room.iterdir()) if room.exists() else []

    def consoles(self) -> list[str]:
        """Return what running machines have said so far."""
        return [path.read_text() for path in self.root.glob("run/*/console.log")]

    def qemus(self) -> list[int]:
        """Return the pids of the machines of the lab's own that use it."""
        return [pid for pid, line in self._processes() if b"\0-nodefaults\0" in line]

    def users(self) -> list[int]:
        """Return the pids of all processes that were told of it."""
        return [pid for pid, _ in self._processes()]

    def _processes(self) -> Iterator[tuple[int, bytes]]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    if os.fsencode(self.root) in line:
                        yield int(entry.name), line

    def clean(self) -> bool:
        """Tell whether nothing of a failed start is left: no QEMU, no file of its own."""
        return not (self.qemus() or self.runs() or self.snapshots())


def wait_until(met: Callable[[], bool]) -> None:
    """Wait for a condition that only a bug keeps from being met."""
    assert patience.wait_until(met, LATE_S)
