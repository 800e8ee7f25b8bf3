"""Where cpumap-lab keeps what it makes: nothing but the cache directory and the results."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

import platformdirs

from harness.errors import CacheError, ToolMissing

REPO = Path(__file__).resolve().parent.parent
"""The checkout (guest sources and built guest objects live here)."""


def cache_dir(*parts: str) -> Path:
    """Return a directory below the cache, made if needed.

    `CPUMAP_LAB_CACHE` names the cache; else it is the XDG cache directory's `cpumap-lab`.

    Raises:
        CacheError: the directory cannot be made.
    """
    named = os.environ.get("CPUMAP_LAB_CACHE")
    root = Path(named) if named else Path(platformdirs.user_cache_dir("cpumap-lab"))
    path = root.joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"cannot make the cache directory {path}: {error.strerror}",
            remedy="set CPUMAP_LAB_CACHE to a directory that you can write",
        ) from error
    return path


def built(name: str) -> Path:
    """Return what `make -C guest` built, such as "agent" or "steer.bpf.o".

    Raises:
        ToolMissing: it has not been built, or not since its sources were changed.
    """
    path = REPO / "build" / "guest" / name
    if not path.is_file():
        raise ToolMissing(f"{path} has not been built", remedy="run `ci/setup`")
    if _is_stale(REPO / "guest"):
        raise ToolMissing(
            f"what lies in {path.parent} is older than its sources in {REPO / 'guest'}",
            remedy="run `make -C guest`",
        )
    return path


@cache
def _is_stale(sources: Path) -> bool:
    """Ask make whether something is to be built; where there is no make, nothing is."""
    try:
        asked = subprocess.run(["make", "-q", "-C", sources], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return asked.returncode == 1  # 2: no sources, or it cannot tell


def built_objects() -> list[Path]:
    """Return the BPF objects that `make -C guest` built.

    Raises:
        ToolMissing: none has been built.
    """
    return sorted(built("steer.bpf.o").parent.glob("*.bpf.o"))
