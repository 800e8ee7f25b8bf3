"""What the tests of the lab itself need: a cache of their own, and eyes on every QEMU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import harness.machine.machine
from harness.lab import Lab
from harness.paths import cache_dir
from harness.pytest_plugin import DEFAULT_KERNEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATE_S = 60.0
"""So late that only a bug reaches it."""
SHARED = ("kernels", "qemu", "accel", "apt")
"""What a cache of one's own takes from the common one: it is slow to come by, and not damaged."""


@pytest.fixture
def a_kernel(pytestconfig: pytest.Config) -> str:
    """One kernel, where it does not matter which."""
    specs: list[str] = pytestconfig.getoption("--kernel")
    return specs[0] if specs else DEFAULT_KERNEL


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

    def qemus(self) -> list[int]:
        """Return the pids of the machines that use it."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    line = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"\0-nodefaults\0" in line and os.fsencode(self.root) in line:
                    found.append(int(entry.name))
        return found

    def clean(self) -> bool:
        """Tell whether nothing of a failed start is left: no QEMU, no file of its own."""
        return not (self.qemus() or self.runs() or self.snapshots())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """An empty cache with the kernels of the common one; nothing may run from it at the end."""
    root = tmp_path / "cache"
    root.mkdir()
    for name in SHARED:
        (root / name).symlink_to(cache_dir(name))
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(root))
    cache = Cache(root)
    yield cache
    assert cache.qemus() == []


@pytest.fixture
def lab_of_cache(cache: Cache) -> Lab:
    """A lab that works in the cache of one's own."""
    return Lab()


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a way to bring the deadlines of some phases of a boot forward."""

    def hurry(**seconds: float) -> None:
        phases = tuple(
            (phase, pattern, seconds.get(phase, deadline))
            for phase, pattern, deadline in harness.machine.machine.PHASES
        )
        monkeypatch.setattr(harness.machine.machine, "PHASES", phases)

    return hurry


def wait_until(met: Callable[[], bool]) -> None:
    """Wait for a condition that only a bug keeps from being met."""
    deadline = time.monotonic() + LATE_S
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)
