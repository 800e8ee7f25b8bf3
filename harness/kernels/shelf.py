"""The kernels in the cache, and throwing them away."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.apt import Archive
from harness.deb import version_key
from harness.errors import KernelNotFound
from harness.kernels.built import recall_build
from harness.kernels.debian import fits, series_of
from harness.kernels.own import locate, read_kernel
from harness.kernels.packages import packages_digest
from harness.kernels.spec import FLAVOURS, BuildSpec, DebianSpec, PackageSpec, parse_spec
from harness.landing import disk_bytes, sweep, take_away
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.kernels.spec import FileSpec


@dataclass(frozen=True)
class Cached:
    """A kernel in the cache.

    Attributes:
        spec: the spec that names just this one.
        directory: where it is.
        release: its `uname -r`.
        version: see `KernelImage.version`.
        flavour: "cloud", "rt", "amd64"; or "path", "deb", "rpm" for what was unpacked from one's
            own bzImage or packages, "build" for what was built from a commit.
        size: bytes on disk.
    """

    spec: str
    directory: Path
    release: str
    version: str
    flavour: str
    size: int

    @property
    def own(self) -> bool:
        """Whether it came from files of one's own, not from the archive."""
        return self.flavour not in FLAVOURS


OWN_ROOMS = ("path", "packages", "builds")
"""Where kernels that came from files of one's own are, below `kernels/` in the cache."""


def cached() -> list[Cached]:
    """Return the kernels in the cache: oldest version first, then one's own, last used last."""
    found = [_cached(path) for path in cache_dir("kernels").glob("[!.]*/meta.json")]
    found.sort(key=lambda kernel: version_key(kernel.version))
    own = [
        _cached(path)
        for room in OWN_ROOMS
        for path in cache_dir("kernels", room).glob("[!.]*/meta.json")
    ]
    own.sort(key=lambda kernel: kernel.directory.stat().st_mtime)
    return found + own


def _cached(meta_path: Path) -> Cached:
    meta = json.loads(meta_path.read_text())
    directory = meta_path.parent
    told = (meta["spec"], directory, meta["release"], meta["version"], meta["flavour"])
    return Cached(*told, disk_bytes(directory))


def prune(specs: Sequence[str] = (), *, keep: int = 1, dry_run: bool = False) -> list[Cached]:
    """Remove kernels from the cache, and what killed downloads left there.

    Args:
        specs: remove what these name, and nothing else.
        keep: without specs, how many builds to keep of each series and flavour (the newest), and
            how many of one's own kernels (the last used).
        dry_run: remove nothing.

    Returns:
        What was removed, or would be.

    Raises:
        KernelNotFound: a spec that is none, or that names nothing in the cache.
        CacheError: the cache cannot be written.
    """
    all_kernels = cached()
    if specs:
        named = [kernel for spec in specs for kernel in _named(spec, all_kernels)]
        gone = list(dict.fromkeys(named))
    else:
        kept: dict[str, int] = {}
        gone = []
        for kernel in reversed(all_kernels):
            kind = "" if kernel.own else f"{series_of(kernel.version)}-{kernel.flavour}"
            kept[kind] = kept.get(kind, 0) + 1
            if kept[kind] > keep:
                gone.append(kernel)
    if dry_run:
        return gone
    for kernel in gone:
        take_away(kernel.directory)
    if not specs:
        Archive().sweep()
        for room in ("", "specs", *OWN_ROOMS):
            sweep(cache_dir("kernels", room))
    return gone


def _named(text: str, kernels: Sequence[Cached]) -> list[Cached]:
    spec = parse_spec(text)
    if isinstance(spec, DebianSpec):
        named = [kernel for kernel in kernels if not kernel.own and fits(spec, kernel)]
    else:
        name = _directory_of(spec)
        named = [kernel for kernel in kernels if kernel.directory.name == name]
    if not named:
        raise KernelNotFound(
            f"{text} is not in the cache", remedy="`cpumap-lab kernels list` says what is"
        )
    return named


def _directory_of(spec: PackageSpec | BuildSpec | FileSpec) -> str:
    if isinstance(spec, PackageSpec):
        return packages_digest(spec)
    if isinstance(spec, BuildSpec):
        here = recall_build(spec)
        return "" if here is None else here.vmlinuz.parent.name if spec.commit else here.sha256
    return read_kernel(locate(spec).image).sha256
