"""Kernel builds in the Debian archive, and which of them a spec means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.deb import version_key
from harness.errors import KernelNotFound
from harness.kernels.image import kernel_numbers
from harness.kernels.spec import DebianSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.apt import Package
    from harness.kernels.image import Pin

PATTERN = "linux-(image|binary|modules|base)-[0-9].*-amd64(-unsigned)?"
"""The names of all packages that make up kernels (a POSIX extended regular expression)."""

_NAME = re.compile(r"linux-(image|binary|modules|base)-(\d\S*?-amd64)(-unsigned)?")


class Named(Protocol):
    """What a spec is compared with."""

    @property
    def release(self) -> str:
        """`uname -r`."""

    @property
    def version(self) -> str:
        """The Debian version."""

    @property
    def flavour(self) -> str:
        """One of `harness.kernels.spec.FLAVOURS`."""


@dataclass(frozen=True)
class Build:
    """One build of a kernel in the archive.

    Attributes:
        release: its `uname -r`.
        version: the Debian version, like "6.1.192-2".
        flavour: "cloud", "rt" or "amd64".
        suites: the suites that carry it.
        packages: what to unpack.
        complete: False when the archive has dropped a part of it (its modules).
    """

    release: str
    version: str
    flavour: str
    suites: tuple[str, ...]
    packages: tuple[Package, ...]
    complete: bool = True

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(package.size for package in self.packages)


def builds_of(packages: Iterable[Package]) -> list[Build]:
    """Group packages into kernel builds, oldest first.

    Up to 6.18 a build is one linux-image package, signed or unsigned. Later ones are split:
    linux-binary (the bzImage), linux-modules and linux-base (config, list of builtins), and
    linux-image only depends on them. linux-image-6.1-cloud-amd64 and the like are no builds
    either: they depend on the newest one.
    """
    groups: dict[tuple[str, str], dict[str, Package]] = {}
    for package in packages:
        if match := _NAME.fullmatch(package.name):
            part = match[1] + (match[3] or "")
            groups.setdefault((match[2], package.version), {})[part] = package
    builds = []
    for (release, version), parts in groups.items():
        binary = parts.get("binary") or parts.get("binary-unsigned")
        image = parts.get("image") or parts.get("image-unsigned")
        if binary:
            chosen = [binary, *(parts[part] for part in ("modules", "base") if part in parts)]
            complete = len(chosen) == 3
        elif image and not re.search(r"\blinux-(image|binary|modules)-\d", image.depends):
            chosen, complete = [image], True
        else:
            continue
        flavour = next((f for f in ("cloud", "rt") if release.endswith(f"-{f}-amd64")), "amd64")
        builds.append(Build(release, version, flavour, chosen[0].suites, tuple(chosen), complete))
    return sorted(builds, key=lambda build: version_key(build.version))


def choose(spec: DebianSpec, builds: Sequence[Build]) -> Build:
    """Return the newest complete build that a spec fits.

    Args:
        spec: what is wanted.
        builds: all there are, oldest first.

    Raises:
        KernelNotFound: none; the message says what there is near it.
    """
    flavoured = [build for build in builds if build.flavour == spec.flavour]
    fitting = [build for build in flavoured if fits(spec, build)]
    complete = [build for build in fitting if build.complete]
    if complete:
        return complete[-1]
    usable = [build for build in flavoured if build.complete]
    remedy = _nearest(spec, usable)
    if fitting:
        raise KernelNotFound(
            f"the Debian archive still has the kernel of {spec} ({fitting[-1].version}) "
            f"but no longer its modules",
            remedy=remedy,
        )
    raise KernelNotFound(f"the Debian archive has no kernel for {spec}", remedy=remedy)


def choose_pinned(spec: DebianSpec, pin: Pin, builds: Sequence[Build]) -> Build:
    """Return the very build that a spec is held to.

    Args:
        spec: what is wanted.
        pin: what it has to be.
        builds: all there are, oldest first.

    Raises:
        KernelNotFound: it is no longer there; the message names the nearest that is.
    """
    for build in builds:
        if (build.release, build.version, build.complete) == (pin.release, pin.version, True):
            return build
    usable = [b for b in builds if b.flavour == spec.flavour and b.complete]
    near = _nearest(DebianSpec(upstream_of(pin.version), spec.flavour), usable)
    raise KernelNotFound(
        f"{spec} is locked to {pin.version} ({pin.release}), which the Debian archive has dropped",
        remedy=f"{near}; `cpumap-lab kernels lock {spec}` takes the newest that {spec} means",
    )


def fits(spec: DebianSpec, build: Named) -> bool:
    """Say whether a spec means this build (or this and other builds of its series)."""
    if spec.release:
        return spec.release == build.release
    return spec.flavour == build.flavour and spec.version in (
        series_of(build.version),
        upstream_of(build.version),
    )


def upstream_of(version: str) -> str:
    """Return the upstream version in a package version, like "6.1.192" or "7.3-rc7"."""
    return version.rpartition("-")[0].replace("~rc", "-rc")


def series_of(version: str) -> str:
    """Return the series of a package version, like "6.1"."""
    return "{}.{}".format(*kernel_numbers(version))


def _nearest(spec: DebianSpec, usable: Sequence[Build]) -> str:
    if not usable:
        return f"there is no {spec.flavour} kernel at all: try another flavour"
    wanted = kernel_numbers(spec.version or spec.release)
    same = [b for b in usable if kernel_numbers(b.version)[:2] == wanted[:2]]

    def distance(build: Build) -> tuple[int, ...]:
        numbers = kernel_numbers(build.version)
        return tuple(abs(a - b) for a, b in zip(numbers, wanted, strict=True))

    # Of builds equally near, the newest.
    near = min(reversed(same or usable), key=distance)
    suffix = "" if spec.flavour == "cloud" else f"-{spec.flavour}"
    if same:
        names = list(dict.fromkeys(upstream_of(build.version) for build in same))
        shown = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        return f"debian has {shown}; nearest: debian:{upstream_of(near.version)}{suffix}"
    series = dict.fromkeys(series_of(build.version) for build in usable)
    return f"debian has {', '.join(series)}; nearest: debian:{series_of(near.version)}{suffix}"
