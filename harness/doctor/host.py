"""What the machine has, and what only the bench needs."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness.doctor.item import Item, State
from harness.errors import LabError
from harness.machine.tap import make_tap

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMINFO = Path("/proc/meminfo")
LEAST_KIB, SCANT_KIB = 768 << 10, 2 << 20
"""Available memory: one guest of 512 MiB fits into the first, a few into the second."""
PEER_TOOLS = {"depmod": "kmod", "modprobe": "kmod", "busybox": "busybox-static"}
"""What virtme-ng calls to boot a distribution's kernel; each with its Debian package."""


def check_memory() -> Iterator[Item]:
    """Say how much memory there is for guests, which take 512 MiB each unless told otherwise."""
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
    available = int(fields["MemAvailable"].split()[0])
    total = int(fields["MemTotal"].split()[0])
    seen = f"{available / (1 << 20):.1f} of {total / (1 << 20):.1f} GiB available"
    if available < LEAST_KIB:
        yield Item("memory", State.MISSING, seen, "end something: a guest takes 512 MiB")
    elif available < SCANT_KIB:
        yield Item("memory", State.WARN, seen, "run one guest at a time (no `-n`)")
    else:
        yield Item("memory", State.OK, seen)


def check_cores() -> Iterator[Item]:
    """Say how many cores this process may use, and how busy they are."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    seen = f"{cores}, load {load:.1f}"
    if cores == 1:
        remedy = "give it two: the guests' CPUs take turns on one"
        yield Item("cores", State.WARN, seen, remedy)
    elif load > 2 * cores:
        busy = f"{seen}: guests are starved, and runs may end without a verdict"
        yield Item("cores", State.WARN, busy, "wait, or run fewer guests at once")
    else:
        yield Item("cores", State.OK, seen)


def check_tap() -> Iterator[Item]:
    """Make what a NIC of several queues stands on."""
    try:
        tap, queues = make_tap(2)
    except LabError as error:
        yield Item("tap", State.WARN, f"{error.message}; NICs have one queue each", error.remedy)
        return
    tap.close()
    for queue in queues:
        os.close(queue)
    yield Item("tap", State.OK, "NICs may have several queues")


def check_virtme() -> Iterator[Item]:
    """Look for virtme-ng: it builds kernels, and `cpumap-lab bench` compares with it."""
    name = "virtme-ng"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        seen = "not installed; no kernel can be built from source, no boot compared with its own"
        yield Item(name, State.OK, seen, "run `ci/setup`")
        return
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    lacking = [tool for tool in PEER_TOOLS if shutil.which(tool, path=places) is None]
    if lacking:
        packages = " ".join(dict.fromkeys(PEER_TOOLS[tool] for tool in lacking))
        seen = f"{version}, without {', '.join(lacking)}; only the bench's comparison needs them"
        yield Item(name, State.WARN, seen, f"install {packages}")
    else:
        yield Item(name, State.OK, f"{version}: builds kernels; the bench compares with it")
