"""Kernel sources out of Debian's linux-source packages, unpacked in the cache."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import libarchive
from libarchive.exception import ArchiveError

from harness.apt import Archive
from harness.archives import extract, why
from harness.deb import unpack, version_key
from harness.errors import FetchFailed, KernelNotFound
from harness.kernels.debian import series_of, upstream_of
from harness.landing import land_directory
from harness.paths import cache_dir

if TYPE_CHECKING:
    from pathlib import Path

    from harness.apt import Package, Progress

PATTERN = r"linux-source-[0-9.]+"
NEWEST = "debian:newest"

_WANTED = re.compile(r"debian:(newest|\d+\.\d+(?:\.\d+)?)")


def choose_source(wanted: str, packages: list[Package]) -> Package:
    """Return the newest package that has the source wanted.

    Args:
        wanted: "debian:newest", "debian:7.3" or "debian:7.3.4".
        packages: all there are.

    Raises:
        KernelNotFound: none has; the message says what there is.
    """
    match = _WANTED.fullmatch(wanted)
    if match is None:
        raise KernelNotFound(
            f"`{wanted}` names no source of Debian's",
            remedy=f"the forms are {NEWEST}, debian:7.3 and debian:7.3.4",
        )
    named = [package for package in packages if re.fullmatch(PATTERN, package.name)]
    named.sort(key=lambda package: version_key(package.version))
    fitting = [
        package
        for package in named
        if match[1] in ("newest", series_of(package.version), upstream_of(package.version))
    ]
    if not fitting:
        there = ", ".join(dict.fromkeys(upstream_of(package.version) for package in named))
        raise KernelNotFound(
            f"the Debian archive has no linux-source package for {wanted}",
            remedy=f"it has {there or 'none at all'}",
        )
    return fitting[-1]


def fetch_source(wanted: str, *, progress: Progress | None = None) -> Path:
    """Return the source tree wanted, as `choose_source`, fetched and unpacked if it is not here.

    Raises:
        KernelNotFound: the archive has none.
        FetchFailed, ToolMissing, CacheError: it could not be brought.
    """
    archive = Archive()
    package = choose_source(wanted, archive.packages(PATTERN, progress=progress))

    def fill(part: Path) -> None:
        (deb,) = archive.download([package], part, what=package.name, progress=progress)
        tarball = part / f"{package.name}.tar.xz"
        unpack(deb, part, lambda path: tarball.name if path.endswith(tarball.name) else None)
        deb.unlink()
        if not tarball.exists():
            raise FetchFailed(f"{package.name} {package.version} holds no {tarball.name}")
        if progress:
            progress(f"unpacking {tarball.name}", 0, 0)
        try:
            with libarchive.file_reader(str(tarball), "tar") as members:
                extract(members, part, lambda path: path.partition("/")[2] or None, tarball.name)
        except ArchiveError as error:
            raise FetchFailed(f"{tarball.name} cannot be unpacked: {why(error)}") from error
        tarball.unlink()

    return land_directory(cache_dir("sources") / f"linux-{package.version}", fill)
