"""Resolving a spec to a `KernelImage`, fetching what is missing.

Layout below `kernels/` in the cache; entry.py says what is in each directory:

    <release>_<version>/    a kernel of the Debian archive
    path/<sha256>/          what is unpacked from a bzImage of one's own
    packages/<sha256>/      what is unpacked from package files of one's own
    builds/<commit>-<x>/    what was built from a commit, with fragments that x is a digest of
    specs/<spec>            the name of the directory that this spec was last resolved to
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import NotLocked
from harness.kernels.built import recall_build, resolve_build
from harness.kernels.fetch import fetch_newest, fetch_pinned, recall, recall_pinned
from harness.kernels.image import KernelImage, Pin
from harness.kernels.own import resolve_file
from harness.kernels.packages import resolve_packages
from harness.kernels.spec import (
    BuildSpec,
    DebianSpec,
    FileSpec,
    KernelSpec,
    PackageSpec,
    parse_spec,
)
from harness.landing import sha256_of

if TYPE_CHECKING:
    from harness.apt import Progress


def resolve(
    spec: str | KernelSpec,
    *,
    refresh: bool = False,
    pin: Pin | None = None,
    progress: Progress | None = None,
) -> KernelImage:
    """Return the kernel that a spec names, fetched if it is not here.

    What a Debian spec was resolved to is remembered; apt is asked only the first time.

    Args:
        spec: see `harness.kernels.spec.FORMS`.
        refresh: ask the archive again what the newest build is.
        pin: the very kernel that it has to be, whatever else the spec may mean.
        progress: told what is fetched.

    Raises:
        KernelNotFound: the spec names nothing; the message says what there is.
        NotLocked: it names another kernel than the pin.
        FetchFailed, ToolMissing, CacheError: it could not be brought.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    if isinstance(parsed, BuildSpec):
        kernel = resolve_build(parsed, progress)
    elif not isinstance(parsed, DebianSpec):
        kernel = _resolve_own(parsed, progress)
    elif pin is None:
        return fetch_newest(parsed, refresh=refresh, progress=progress)
    else:
        kernel = fetch_pinned(parsed, pin, progress)
    return _checked(parsed, kernel, pin)


def remembered(spec: str | KernelSpec, pin: Pin | None = None) -> KernelImage | None:
    """Return the kernel that a spec was resolved to before; None if it has to be fetched or built.

    Raises:
        KernelNotFound: the spec cannot be read, or names a file that is no kernel.
        NotLocked: it names another kernel than the pin.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    kernel: KernelImage | None
    if isinstance(parsed, BuildSpec):
        kernel = recall_build(parsed)
    elif not isinstance(parsed, DebianSpec):
        kernel = _resolve_own(parsed)
    else:
        kernel = recall_pinned(parsed, pin) if pin else recall(parsed)
    return _checked(parsed, kernel, pin) if kernel else None


def _resolve_own(spec: PackageSpec | FileSpec, progress: Progress | None = None) -> KernelImage:
    if isinstance(spec, PackageSpec):
        return resolve_packages(spec, progress)
    return resolve_file(spec)


def _checked(spec: KernelSpec, kernel: KernelImage, pin: Pin | None) -> KernelImage:
    if pin is None:
        return kernel
    found = Pin.of(replace(kernel, sha256=sha256_of(kernel.vmlinuz)))
    if found == pin:
        return kernel
    pairs = [
        (what, getattr(found, what), getattr(pin, what))
        for what in ("release", "version", "sha256")
    ]
    odd = [f"{what} {is_}, not {locked}" for what, is_, locked in pairs if is_ != locked]
    raise NotLocked(
        f"{spec} is another kernel than it is locked to: {'; '.join(odd) or 'other packages'}",
        remedy=f"`cpumap-lab kernels lock {spec}`, if it is the one that is wanted",
    )
