"""The builds between two kernels of the Debian archive, and bringing the next one beforehand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.apt import Archive
from harness.deb import version_key
from harness.errors import FetchFailed, KernelNotFound, ToolMissing, UserError
from harness.kernels import remembered, resolve
from harness.kernels.debian import PATTERN, builds_of, choose, upstream_of
from harness.kernels.image import kernel_numbers
from harness.kernels.shelf import cached
from harness.kernels.spec import FLAVOURS, DebianSpec, parse_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.apt import Progress
    from harness.kernels.debian import Build
    from harness.kernels.shelf import Cached

SERIES_WEIGHT = 100.0
"""What a mainline release changes, in stable updates."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A build that a bisection may visit.

    Attributes:
        spec: the spec that means this build and no other.
        release: its `uname -r`.
        version: the Debian version.
        flavour: one of `FLAVOURS`.
        bytes: to download; 0 if it is in the cache.
        gone: why it cannot be run; "" if it can.
    """

    spec: str
    release: str
    version: str
    flavour: str
    bytes: int
    gone: str = ""

    @property
    def upstream(self) -> str:
        """The upstream version, like "6.12.117"."""
        return upstream_of(self.version)


def find_candidates(
    ends: tuple[str, str],
    *,
    any_order: bool = False,
    only_cached: bool = False,
    skip: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[list[Candidate], list[str]]:
    """Return the builds between two kernels, both included, oldest first, and notes on them.

    Args:
        ends: the specs of the older kernel and of the newer one.
        any_order: or the other way round.
        only_cached: leave out what would have to be fetched; the archive is not asked.
        skip: specs of builds that are not to be run.
        progress: told what is fetched.

    Raises:
        UserError: a spec names no kernel of Debian's, or they are of two flavours, or the same.
        FetchFailed, ToolMissing, CacheError: the archive cannot be asked.
    """
    flavour = _flavour(*ends)
    builds: list[Build] = []
    notes = []
    if not only_cached:
        try:
            builds = builds_of(Archive().packages(PATTERN, progress=progress))
        except (FetchFailed, ToolMissing) as error:
            notes.append(f"only what is in the cache is considered: {error.message}")
    known = merge(builds, [each for each in cached() if not each.own], flavour)
    old, new = (_locate(spec, known, builds) for spec in ends)
    if any_order:
        old, new = sorted((old, new))
    versions = [f"{spec} ({known[n].version})" for spec, n in zip(ends, (old, new), strict=True)]
    if old == new:
        raise UserError(f"{' and '.join(versions)} are the same build")
    if old > new:
        raise UserError(
            f"the good one is newer than the bad one: {' and '.join(versions)}",
            remedy="exchange them; to find what fixed something, add --invert",
        )
    for spec in skip:
        number = _locate(spec, known, builds)
        if number in (old, new):
            raise UserError(f"{spec} is an end: it cannot be skipped")
        known[number] = replace(known[number], gone="as you say")
    return known[old : new + 1], notes


def bring(candidate: Candidate, *, progress: Progress | None = None) -> str:
    """Have a build in the cache, and return why it cannot be: "" if it is there.

    Raises:
        FetchFailed, ToolMissing, CacheError: it could not be brought.
    """
    try:
        for refresh in (False, True):
            found = resolve(candidate.spec, refresh=refresh, progress=progress).version
            if found == candidate.version:
                return ""
    except KernelNotFound as error:
        return error.message
    return f"{candidate.spec} is {found} now"


def merge(builds: Sequence[Build], here: Sequence[Cached], flavour: str) -> list[Candidate]:
    """Return the builds of a flavour that the archive or the cache has, oldest first."""
    in_cache = {(each.release, each.version) for each in here}
    found = {}
    for build in builds:
        if build.flavour != flavour:
            continue
        spec = _exact(build.release) or DebianSpec(upstream_of(build.version), flavour)
        gone = "" if build.complete else "the archive has dropped its modules"
        if build.complete and choose(spec, builds) != build:
            gone = f"{spec} names a later build"
        key = build.release, build.version
        if key in in_cache:
            found[key] = Candidate(str(spec), *key, flavour, 0)
        else:
            found[key] = Candidate(str(spec), *key, flavour, build.size, gone)
    for each in here:
        key = each.release, each.version
        if key not in found and each.flavour == flavour:
            found[key] = Candidate(each.spec, *key, flavour, 0)
    return sorted(found.values(), key=lambda each: version_key(each.version))


def weigh(old: Candidate, new: Candidate) -> float:
    """Return roughly how much has changed from one build to another."""
    first, last = kernel_numbers(old.version), kernel_numbers(new.version)
    if first[:2] == last[:2]:
        return last[2] - first[2]
    return SERIES_WEIGHT * ((last[0] - first[0]) * 20 + last[1] - first[1])


class Prefetch:
    """One build that is brought in another process, which is ended when it is not needed."""

    def __init__(self) -> None:
        self._spec = ""
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, candidate: Candidate) -> None:
        """Begin to bring a build, if it is not here."""
        if candidate.spec == self._spec or not candidate.bytes or remembered(candidate.spec):
            return
        self.stop()
        code = "from harness.cli import main; main()"
        self._spec = candidate.spec
        self._child = subprocess.Popen(
            [sys.executable, "-c", code, "kernels", "fetch", candidate.spec],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # what is wrong is told by whoever needs the build
            process_group=0,
        )

    def wait(self, candidate: Candidate) -> None:
        """Wait for a build if it is the one that is being brought; if it is another, end that."""
        if self._child is not None and candidate.spec == self._spec:
            self._child.wait()
        self.stop()

    def stop(self) -> None:
        """End what is being brought; what has come of it serves the next one who asks."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            self._child.wait()
        self._child, self._spec = None, ""


def _flavour(old: str, new: str) -> str:
    flavours = []
    for text in (old, new):
        spec = parse_spec(text)
        if not isinstance(spec, DebianSpec):
            raise UserError(
                f"{text} is no kernel of the Debian archive, and only that has builds in a row",
                remedy="give two of its specs, like debian:6.12, or --tree DIR and two commits",
            )
        flavours.append(spec.flavour)
    if flavours[0] != flavours[1]:
        raise UserError(
            f"{old} is of the {flavours[0]} flavour, {new} of the {flavours[1]}",
            remedy=f"give both of one flavour ({', '.join(FLAVOURS)}): they differ in much else",
        )
    return flavours[0]


def _exact(release: str) -> DebianSpec | None:
    spec = parse_spec(f"debian:{release}")
    # A release like "7.3-amd64" reads as the newest 7.3 of that flavour
    return spec if isinstance(spec, DebianSpec) and spec.release else None


def _locate(text: str, known: Sequence[Candidate], builds: Sequence[Build]) -> int:
    """Return the number of the build that a spec means, as the rest of the lab understands it."""
    image = remembered(text)
    if image is None:
        spec = parse_spec(text)
        if builds and isinstance(spec, DebianSpec):
            build = choose(spec, builds)
            return _number(known, build.release, build.version)
        image = resolve(text) if builds else None
    if image is None:
        raise KernelNotFound(
            f"{text} is not in the cache", remedy=f"`cpumap-lab kernels fetch {text}`"
        )
    return _number(known, image.release, image.version)


def _number(known: Sequence[Candidate], release: str, version: str) -> int:
    keys = [(each.release, each.version) for each in known]
    return keys.index((release, version))
