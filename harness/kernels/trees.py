"""What building kernels leaves in the cache, and throwing it away: some 2 GB each.

Sources are those of Debian's packages; builds are outputs of make (O=), and clones that commits are
checked out in. All of them are made anew when they are needed.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.kernels.build import LOG
from harness.landing import disk_bytes, is_locked, sweep, take_away
from harness.paths import cache_dir

if TYPE_CHECKING:
    from pathlib import Path

ROOMS = {"source": "sources", "build": "builds"}
"""Where what is kept, in the cache."""


@dataclass(frozen=True)
class Tree:
    """A source tree, or a build.

    Attributes:
        kind: "source" or "build".
        directory: where it is.
        used: when it was made, or built in last, in seconds since the epoch.
        size: bytes on disk.
    """

    kind: str
    directory: Path
    used: float
    size: int


def trees() -> list[Tree]:
    """Return the sources and builds in the cache, last used last."""
    found = [
        Tree(kind, path, _used(path), disk_bytes(path))
        for kind, room in ROOMS.items()
        for path in cache_dir(room).glob("[!.]*")
        if path.is_dir()
    ]
    return sorted(found, key=lambda tree: tree.used)


def prune_trees(*, keep: int, dry_run: bool = False) -> list[Tree]:
    """Remove sources and builds, but those at which somebody is at work.

    Args:
        keep: of each kind, the last used.
        dry_run: remove nothing.

    Returns:
        What was removed, or would be.

    Raises:
        CacheError: the cache cannot be written.
    """
    gone, kept, busy = [], dict.fromkeys(ROOMS, 0), _busy()
    for tree in reversed(trees()):
        kept[tree.kind] += 1
        if kept[tree.kind] > keep and tree.directory.resolve() not in busy:
            gone.append(tree)
    if not dry_run:
        for tree in gone:
            take_away(tree.directory)
        for room in ROOMS.values():
            sweep(cache_dir(room))
    return gone


def _used(path: Path) -> float:
    times = [path.stat().st_mtime]
    with contextlib.suppress(FileNotFoundError):
        times.append((path / LOG).stat().st_mtime)
    return max(times)


def _busy() -> set[Path]:
    """Return what is locked, and the sources from which kernels are being built."""
    held = [path for room in ROOMS.values() for path in cache_dir(room).glob("[!.]*")]
    # make's O= leaves a link to the source
    both = (path for each in held if is_locked(each) for path in (each, each / "source"))
    return {path.resolve() for path in both}
