"""Resolving a spec to a `KernelImage`, fetching what is missing.

Layout below `kernels/` in the cache; entry.py says what is in each directory:

    <release>_<version>/    a kernel of the Debian archive
    path/<sha256>/          what is unpacked from a bzImage of one's own
    packages/<sha256>/      what is unpacked from package files of one's own
    specs/<spec>            the name of the directory that this spec was last resolved to
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from harness import deb
from harness.apt import Archive, Progress
from harness.errors import FetchFailed, KernelNotFound
from harness.kernels.debian import PATTERN, Build, builds_of, choose
from harness.kernels.entry import Parcel, finish, gather, land, load
from harness.kernels.image import KernelImage, KernelPackage
from harness.kernels.own import resolve_file
from harness.kernels.packages import resolve_packages
from harness.kernels.spec import DebianSpec, KernelSpec, PackageSpec, parse_spec
from harness.landing import sweep, write_atomically
from harness.paths import cache_dir

if TYPE_CHECKING:
    from pathlib import Path
RECENT = 600.0
"""Seconds for which a kernel missing from the indices is believed to be missing."""


def resolve(
    spec: str | KernelSpec, *, refresh: bool = False, progress: Progress | None = None
) -> KernelImage:
    """Return the kernel that a spec names, fetched if it is not here.

    What a Debian spec was resolved to is remembered; apt is asked only the first time.

    Args:
        spec: see `harness.kernels.spec.FORMS`.
        refresh: ask the archive again what the newest build is.
        progress: told what is fetched.

    Raises:
        KernelNotFound: the spec names nothing; the message says what there is.
        FetchFailed, ToolMissing, CacheError: it could not be brought.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    if isinstance(parsed, PackageSpec):
        return resolve_packages(parsed)
    if not isinstance(parsed, DebianSpec):
        return resolve_file(parsed)
    if not refresh and (known := remembered(parsed)):
        return known
    archive = Archive()
    if refresh:
        archive.refresh(force=True, progress=progress)
    try:
        directory = _fetch(parsed, archive, progress)
    except (KernelNotFound, FetchFailed):
        if archive.age() < RECENT:
            raise
        # It may be newer than the indices, or they may name what the mirror has since dropped.
        archive.refresh(force=True, progress=progress)
        directory = _fetch(parsed, archive, progress)
    kernel = load(directory, str(parsed))
    exact = parse_spec(f"debian:{kernel.release}")
    # A release like "7.3-amd64" reads as the newest 7.3 of that flavour: it has no spec of its own.
    own = [exact] if isinstance(exact, DebianSpec) and exact.release else []
    specs = cache_dir("kernels", "specs")
    sweep(specs)
    for known_as in dict.fromkeys((*own, parsed)):  # asked again if it was not the last
        write_atomically(specs / str(known_as), directory.name.encode())
    return kernel


def _fetch(spec: DebianSpec, archive: Archive, progress: Progress | None) -> Path:
    builds = builds_of(archive.packages(PATTERN, progress=progress))
    try:
        build = choose(spec, builds)
    except KernelNotFound as error:
        notes = "; ".join(archive.refresh(progress=progress))
        if not notes:
            raise
        raise KernelNotFound(f"{error.message} ({notes})", remedy=error.remedy) from error
    return land(
        *("", f"{build.release}_{build.version}"),
        lambda part: _fill(part, build, archive, progress),
    )


def remembered(spec: str | KernelSpec) -> KernelImage | None:
    """Return the kernel that a spec was resolved to before; None if it has to be fetched.

    Raises:
        KernelNotFound: the spec cannot be read, or names a file that is no kernel.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    if isinstance(parsed, PackageSpec):
        return resolve_packages(parsed)
    if not isinstance(parsed, DebianSpec):
        return resolve_file(parsed)
    try:
        name = (cache_dir("kernels", "specs") / str(parsed)).read_text()
        return load(cache_dir("kernels") / name, str(parsed))
    except (FileNotFoundError, NotADirectoryError):
        return None


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
        [KernelPackage(p.name, p.version, p.sha256) for p in build.packages],
        spec=f"debian:{build.release}",
        version=build.version,
        flavour=build.flavour,
        suites=build.suites,
    )
    shutil.rmtree(part / "debs")
