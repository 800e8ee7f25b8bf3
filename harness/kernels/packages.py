"""Kernels in package files of one's own: .deb and .rpm, unpacked once per content."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING

from harness import deb, rpm
from harness.errors import FetchFailed, KernelNotFound
from harness.kernels.entry import Parcel, finish, gather, land, load
from harness.kernels.image import KernelImage, KernelPackage
from harness.landing import cache_errors, sha256_of

if TYPE_CHECKING:
    from pathlib import Path

    from harness.apt import Progress
    from harness.kernels.spec import PackageSpec

OURS = ("amd64", "x86_64", "all", "noarch")
"""Architectures that a package of a guest may have."""
_AGAIN = "download or build the package again"


def resolve_packages(given: PackageSpec, progress: Progress | None = None) -> KernelImage:
    """Return the kernel in some package files.

    Args:
        given: the files.
        progress: told if they have to be unpacked.

    Raises:
        KernelNotFound: a file is missing, no package, damaged, or for another machine; or what
            they hold is not one kernel and its modules.
        CacheError: the cache cannot be written.
    """
    spec = given.absolute()

    def fill(part: Path) -> None:
        if progress:
            progress(f"unpacking {', '.join(file.name for file in spec.files)}", 0, 0)
        _fill(part, spec)

    directory = land("packages", packages_digest(spec), fill)
    with cache_errors(str(directory)):
        directory.touch()  # `prune` keeps the last used
    return load(directory, str(spec))


def packages_digest(spec: PackageSpec) -> str:
    """Return what names the kernel in some package files: a digest of their contents.

    Raises:
        KernelNotFound: a file cannot be read.
    """
    digests = sorted({_digest(file) for file in spec.files})
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _fill(part: Path, spec: PackageSpec) -> None:
    try:
        packages = [_identify(spec, file) for file in spec.files]
        tool = deb.unpack if spec.kind == "deb" else rpm.unpack
        image = gather(part, [Parcel(file, tool) for file in spec.files])
    except FetchFailed as error:
        raise KernelNotFound(error.message, remedy=_AGAIN) from error
    finish(part, image, packages, spec=str(spec), version=image.banner, flavour=spec.kind)


def _identify(spec: PackageSpec, file: Path) -> KernelPackage:
    if spec.kind == "deb":
        control = deb.read_control(file)
        tags = ("Package", "Version", "Architecture")
        name, version, arch = (control.get(tag, "") for tag in tags)
    else:
        header = rpm.read_header(file)
        name, version, arch = (header[key] for key in ("name", "version", "arch"))
    if arch not in OURS:
        raise KernelNotFound(
            f"{file} is {name} for {arch}, and guests are x86-64",
            remedy=f"give the package for {'amd64' if spec.kind == 'deb' else 'x86_64'}",
        )
    return KernelPackage(name, version, _digest(file))


def _digest(file: Path) -> str:
    try:
        stat = file.stat()
        return _digest_of(file, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise KernelNotFound(
            f"cannot read the package {file}: {error.strerror}",
            remedy="several files are parted by commas, without spaces",
        ) from error


@cache
def _digest_of(file: Path, *_: int) -> str:
    """Hash a file once per process, for as long as it looks the same."""
    return sha256_of(file)
