"""Where kernels come from, and what is in the cache."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness.doctor.item import Item, State
from harness.errors import LabError
from harness.paths import cache_dir
from harness.progress import megabytes

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")
SCANT_BYTES, LEAST_BYTES = 5_000_000_000, 500_000_000
"""Free disk: a dozen kernels and their snapshots fit into the first, one into the second."""
PARTS = {
    "kernels": "`cpumap-lab kernels prune` removes all but the newest of each series",
    "builds": "may be deleted: `cpumap-lab kernels build` builds them again, which takes longer",
    "sources": "may be deleted: they are fetched again",
    "snapshots": "`cpumap-lab snapshots prune` removes them; they are made again",
    "images": "may be deleted: they are packed again",
    "qemu": "old versions may be deleted: the newest is used",
    "apt": "may be deleted: indices and downloads are brought again",
}
"""What the cache holds, and how it is made smaller."""
AGENT_PORT = "name=cpumap-lab.agent"


def check_kernels() -> Iterator[Item]:
    """Say whether kernels can be fetched, and which are here."""
    from harness.apt import Archive, own_codename  # noqa: PLC0415
    from harness.apt.mirrors import KEYRINGS, machine_sources, pick_mirrors  # noqa: PLC0415
    from harness.kernels import cached  # noqa: PLC0415

    here = cached()
    lack = State.WARN if here else State.MISSING
    try:
        pick_mirrors(machine_sources(), own_codename())
    except LabError as error:
        yield Item("apt", lack, error.message, error.remedy)
    else:
        age = Archive().age()
        old = "never brought yet" if age == float("inf") else f"{age / 3600:.1f} h old"
        if any(path.exists() for path in KEYRINGS):
            yield Item("apt", State.OK, f"has a Debian mirror; package indices {old}")
        else:
            seen = "has a Debian mirror, but there is no keyring to verify it with"
            yield Item("apt", lack, seen, "install debian-archive-keyring")
    if here:
        total = megabytes(sum(kernel.size for kernel in here))
        names = ", ".join(kernel.release for kernel in here)
        yield Item("kernels", State.OK, f"{len(here)} in the cache ({total}): {names}")
    else:
        seen = "none in the cache: the first run fetches what it needs (30 to 100 MB each)"
        yield Item("kernels", State.OK, seen, "`cpumap-lab kernels fetch debian:6.1` does it now")


def check_disk() -> Iterator[Item]:
    """Say how much disk there is for the cache, and what its parts take."""
    root = cache_dir()
    free = shutil.disk_usage(root).free
    state = State.MISSING if free < LEAST_BYTES else State.WARN if free < SCANT_BYTES else State.OK
    remedy = "free some, or point CPUMAP_LAB_CACHE to a larger disk" if state != State.OK else ""
    yield Item("disk", state, f"{megabytes(free)} free at {root}", remedy)
    for part, remedy in PARTS.items():
        taken = disk_bytes(root / part)
        if taken:
            yield Item(f"cache: {part}", State.OK, megabytes(taken), remedy)


def disk_bytes(tree: Path) -> int:
    """Return the bytes on disk below a directory; holes in files take none."""
    total = 0
    for path in tree.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:  # someone else's, gone in the meantime
            continue
    return total


def check_leftovers() -> Iterator[Item]:
    """Look for files and QEMUs of runs whose harness is dead."""
    dead = [path.name for path in cache_dir("run").iterdir() if is_dead(path.name)]
    if dead:
        seen = f"{len(dead)} directories of dead runs: {', '.join(sorted(dead)[:8])}"
        yield Item("dead runs", State.WARN, seen, "the next run removes them")
    else:
        yield Item("dead runs", State.OK, "none left anything")
    orphans = find_orphans()
    if orphans:
        pids = " ".join(map(str, orphans))
        seen = f"{len(orphans)} of ours outlived their harness: {pids}"
        yield Item("orphan QEMUs", State.WARN, seen, f"kill {pids}")
    else:
        yield Item("orphan QEMUs", State.OK, "none")


def is_dead(name: str) -> bool:
    """Say whether a run directory's name begins with the pid of a process that is no more."""
    owner = name.partition("-")[0]
    return owner.isdigit() and not (PROC / owner).exists()


def find_orphans() -> list[int]:
    """Return the pids of guests' QEMUs whose harness, which their directory names, is dead."""
    orphans = []
    for directory in PROC.iterdir():
        if not directory.name.isdigit():
            continue
        try:
            argv = (directory / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:  # ended in the meantime
            continue
        if not any(word.endswith(AGENT_PORT) for word in argv):
            continue
        logs = [word for word in argv if word.startswith("file,id=console,path=")]
        if any(is_dead(Path(log.partition("path=")[2]).parent.name) for log in logs):
            orphans.append(int(directory.name))
    return sorted(orphans)
