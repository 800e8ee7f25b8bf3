"""A cache to look at, and a way to wait."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness import patience
from harness.inventory import Inventory, take_inventory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.guest import Guest

WNOHANG = 1
TRACING = "/sys/kernel/tracing/instances"
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


def processes(machine: Guest, prefix: str) -> list[int]:
    """Return the pids of those whose comm begins so; the dead are buried."""
    while machine.calls.raw("wait4", -1, 0, WNOHANG, 0).value > 0:
        pass  # init of this machine buries nobody by itself
    return [pid for pid, _ in machine.calls.link.call("threads", prefix)]


def look(machine: Guest) -> tuple[Inventory, list[str]]:
    """Return what there is on the machine, and the files that a session makes there."""
    link = machine.calls.link
    processes(machine, "")
    files = [path for place in ("/tmp", TRACING) for path, _ in link.call("tree", place, "")]
    return take_inventory(machine.calls), files


def see_nothing(left: Callable[[], list[str]], limit_s: float = LATE_S) -> None:
    """Wait until nothing is left: what a broken connection leaves takes its time to go."""
    patience.wait_until(lambda: not left(), limit_s)
    assert left() == []
