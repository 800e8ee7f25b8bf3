"""Kernels of the Debian archive, fetched into the cache: the newest of a spec, or a pinned one.

What a spec was resolved to is remembered in specs/<spec>, the name of a directory.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from harness import deb
from harness.apt import Archive, Progress
from harness.errors import FetchFailed, KernelNotFound, NotLocked
from harness.kernels.debian import PATTERN, Build, builds_of, choose, choose_pinned
from harness.kernels.entry import Parcel, finish, gather, land, load
from harness.kernels.image import KernelImage, KernelPackage, Pin
from harness.kernels.spec import DebianSpec, parse_spec
from harness.landing import sweep, write_atomically
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

RECENT = 600.0
"""Seconds for which a kernel missing from the indices is believed to be missing."""
JUST_NOW = 60.0
"""Seconds for which the indices need not be asked for again by one who wants the newest."""


def fetch_newest(
    spec: DebianSpec, *, refresh: bool = False, progress: Progress | None = None
) -> KernelImage:
    """Return the kernel that a spec was resolved to before, or else the newest that it means.

    Args:
        spec: what is wanted.
        refresh: ask the archive again what the newest build is.
        progress: told what is fetched.

    Raises:
        KernelNotFound: the archive has none; the message says what there is.
        FetchFailed, ToolMissing, CacheError: it could not be brought.
    """
    if not refresh and (known := recall(spec)):
        return known
    archive = Archive()
    if refresh:
        archive.refresh(force=archive.age() > JUST_NOW, progress=progress)
    directory = _fetch(lambda builds: choose(spec, builds), archive, progress)
    kernel = load(directory, str(spec))
    exact = parse_spec(f"debian:{kernel.release}")
    # A release like "7.3-amd64" reads as the newest 7.3 of that flavour: it has no spec of its own.
    own = [exact] if isinstance(exact, DebianSpec) and exact.release else []
    specs = cache_dir("kernels", "specs")
    sweep(specs)
    for known_as in dict.fromkeys((*own, spec)):  # asked again if it was not the last
        write_atomically(specs / str(known_as), directory.name.encode())
    return kernel


def recall(spec: DebianSpec) -> KernelImage | None:
    """Return the kernel that a spec was resolved to before; None if it has to be fetched."""
    try:
        name = (cache_dir("kernels", "specs") / str(spec)).read_text()
        return load(cache_dir("kernels") / name, str(spec))
    except (FileNotFoundError, NotADirectoryError):
        return None


def fetch_pinned(spec: DebianSpec, pin: Pin, progress: Progress | None = None) -> KernelImage:
    """Return the very build that a spec is held to.

    Raises:
        KernelNotFound: the archive has dropped it; the message names the nearest that is there.
        NotLocked: the archive has other packages under the same names and versions.
        FetchFailed, ToolMissing, CacheError: it could not be brought.
    """
    if known := recall_pinned(spec, pin):
        return known

    def pick(builds: Sequence[Build]) -> Build:
        build = choose_pinned(spec, pin, builds)
        if _packages(build) != pin.packages:
            raise NotLocked(
                f"the archive has other packages of {pin.release} {pin.version} than {spec} is "
                "locked to",
                remedy=f"`cpumap-lab kernels lock {spec}`, if they are to be trusted",
            )
        return build

    return load(_fetch(pick, Archive(), progress), str(spec))


def recall_pinned(spec: DebianSpec, pin: Pin) -> KernelImage | None:
    """Return the build that a spec is held to; None if it has to be fetched."""
    try:
        return load(cache_dir("kernels") / f"{pin.release}_{pin.version}", str(spec))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _fetch(
    pick: Callable[[Sequence[Build]], Build], archive: Archive, progress: Progress | None
) -> Path:
    try:
        return _fetch_once(pick, archive, progress)
    except (KernelNotFound, FetchFailed):
        if archive.age() < RECENT:
            raise
        # It may be newer than the indices, or they may name what the mirror has since dropped.
        archive.refresh(force=True, progress=progress)
        return _fetch_once(pick, archive, progress)


def _fetch_once(
    pick: Callable[[Sequence[Build]], Build], archive: Archive, progress: Progress | None
) -> Path:
    builds = builds_of(archive.packages(PATTERN, progress=progress))
    try:
        build = pick(builds)
    except KernelNotFound as error:
        notes = "; ".join(archive.refresh(progress=progress))
        if not notes:
            raise
        raise KernelNotFound(f"{error.message} ({notes})", remedy=error.remedy) from error
    return land(
        *("", f"{build.release}_{build.version}"),
        lambda part: _fill(part, build, archive, progress),
    )


def _fill(part: Path, build: Build, archive: Archive, progress: Progress | None) -> None:
    debs = archive.download(build.packages, part / "debs", what=build.release, progress=progress)
    try:
        image = gather(part, [Parcel(file, deb.unpack) for file in debs])
    except KernelNotFound as error:
        raise FetchFailed(
            error.message,
            remedy="Debian may have changed the layout of its kernel packages: try another build",
        ) from error
    finish(
        part,
        image,
        _packages(build),
        spec=f"debian:{build.release}",
        version=build.version,
        flavour=build.flavour,
        suites=build.suites,
    )
    shutil.rmtree(part / "debs")


def _packages(build: Build) -> frozenset[KernelPackage]:
    return frozenset(KernelPackage(p.name, p.version, p.sha256) for p in build.packages)
