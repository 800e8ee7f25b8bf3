"""A kernel tree's twin, whose cpumap.c may be changed while the tree is only read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from harness.landing import cache_errors, locked
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CPUMAP = "kernel/bpf/cpumap.c"


@contextlib.contextmanager
def twin_of(tree: Path) -> Iterator[Path]:
    """Give a twin of a kernel tree, in the cache, for as long as this lasts.

    Its files are the tree's own, by hard links where the cache is on the same disk: none but
    cpumap.c may be written to. It is always at the same place, so that what is built from it is
    built again only where it differs.

    Raises:
        CacheError: no space, no permission, or another is at work on it.
    """
    digest = hashlib.sha256(str(tree).encode()).hexdigest()[:12]
    twin = cache_dir("sources") / f"{tree.name}-mutants-{digest}"
    with locked(twin):
        _remove(twin)  # what a killed one left
        try:
            with cache_errors(str(twin)):
                shutil.copytree(
                    tree,
                    twin,
                    symlinks=True,
                    ignore=shutil.ignore_patterns(".git"),
                    copy_function=_link,
                )
                own = twin / CPUMAP
                own.unlink()
                shutil.copy2(tree / CPUMAP, own)
            yield twin
        finally:
            _remove(twin)


def _remove(twin: Path) -> None:
    with cache_errors(str(twin)), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(twin)


def _link(source: str, dest: str) -> None:
    try:
        os.link(source, dest, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, dest, follow_symlinks=False)
