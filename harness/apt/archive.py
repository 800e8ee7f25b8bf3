"""A private apt: the Debian archive, signatures verified, no root, the machine's own apt untouched.

apt itself does the work, told by `-c` to use a state directory below the cache and a source list of
its own. The mirror is the one that the machine's apt is configured for, asked at run time from
`apt-get indextargets`; the machine's other apt settings (proxies, timeouts) hold, too.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.apt import mirrors
from harness.apt.tool import Apt, failure
from harness.deb import version_key
from harness.errors import FetchFailed
from harness.landing import cache_errors, locked, sha256_of, sweep, write_atomically
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from harness.apt.tool import Progress

FRESH = 6 * 3600.0
"""Seconds after which the indices are brought again."""


@dataclass(frozen=True)
class Package:
    """One version of a binary package.

    Attributes:
        name: the package name.
        version: the Debian version.
        suites: the suites that carry this version.
        sha256: of the .deb, from the signed index.
        size: of the .deb, in bytes.
        depends: its Depends field, "" when it has none.
    """

    name: str
    version: str
    suites: tuple[str, ...]
    sha256: str
    size: int
    depends: str = ""


@dataclass(frozen=True)
class Archive:
    """The Debian archive as the machine's mirror has it.

    Attributes:
        root: apt's private state, source lists and unfinished downloads.
    """

    root: Path = field(default_factory=lambda: cache_dir("apt"))

    def refresh(self, *, force: bool = False, progress: Progress | None = None) -> tuple[str, ...]:
        """Bring the package indices if they are older than `FRESH` (or at once, by `force`).

        Returns:
            Notes on suites that the mirror lacks or that could not be brought now; an index of an
            earlier time goes on serving.

        Raises:
            FetchFailed: no index at all could be had.
            ToolMissing: no apt, or no Debian keyring, on this machine.
            CacheError: the disk is full or not writable.
        """
        with locked(self.root / "apt"):
            return self._refresh(force=force, progress=progress)

    def age(self) -> float:
        """Return the seconds since the indices were last brought (infinity if never)."""
        try:
            return max(0.0, time.time() - self._stamp.stat().st_mtime)
        except FileNotFoundError:
            return float("inf")

    def packages(self, pattern: str, *, progress: Progress | None = None) -> list[Package]:
        """Return all versions of the packages whose whole name matches a POSIX extended regex.

        Raises:
            FetchFailed, ToolMissing, CacheError: as `refresh`.
        """
        with locked(self.root / "apt"):
            self._refresh(progress=progress)
            found = self._tools.must("apt-cache", "search", "--names-only", f"^({pattern})$")
            names = sorted({line.split(" ", 1)[0] for line in found.splitlines()})
            return self._describe(names)

    def closure(
        self,
        name: str,
        codename: str,
        *,
        always: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> list[Package]:
        """Return the newest `name` of a release or its backports, and what it needs beyond dpkg's.

        The machine's own dpkg status counts as installed, so that only what is missing or must be
        newer is listed; recommended packages are left out. `name` itself comes last.

        Args:
            name: the package wanted.
            codename: the machine's own release, like "bookworm".
            always: packages of the closure to list even if the machine has them installed.
            progress: told about the indices.

        Raises:
            FetchFailed: the release has no such package, or apt cannot satisfy what it needs.
            ToolMissing, CacheError: as `refresh`.
        """
        own = (codename, f"{codename}-updates", f"{codename}-security", f"{codename}-backports")

        def newest(package_name: str) -> Package:
            offered = [p for p in self._describe([package_name]) if set(p.suites) & set(own)]
            if not offered:
                raise FetchFailed(
                    f"the mirror has no {package_name} for {codename}",
                    remedy=f"install {name} with the machine's own package manager",
                )
            return max(offered, key=lambda package: version_key(package.version))

        with locked(self.root / "apt"):
            self._refresh(progress=progress)
            wanted = newest(name)
            lines = self._source_list.read_text().splitlines(keepends=True)
            narrow = self.root / "own.list"
            write_atomically(
                narrow, "".join(line for line in lines if line.split()[-2] in own).encode()
            )
            backports = f"{codename}-backports"
            plan = self._tools.must(
                "apt-get",
                *("-o", f"Dir::Etc::sourcelist={narrow}"),
                # The package cache on disk belongs to the full source list.
                *("-o", "Dir::Cache::pkgcache="),
                *(("--target-release", backports) if backports in wanted.suites else ()),
                *("--no-install-recommends", "--simulate", "install"),
                f"{name}={wanted.version}",
            )
            steps = re.findall(r"^Inst (\S+?)(?::\S+)? (?:\[\S+\] )?\((\S+) ", plan, re.MULTILINE)
            names = [step[0] for step in steps]
            known = {(p.name, p.version): p for p in self._describe(names)}
            return [
                *(newest(other) for other in always if other not in names),
                *(known[step] for step in steps if step[0] != name),
                wanted,
            ]

    def download(
        self,
        packages: Sequence[Package],
        into: Path,
        *,
        what: str,
        progress: Progress | None = None,
    ) -> list[Path]:
        """Bring packages into a directory, each file whole and its sha256 verified.

        A download that was cut off goes on where it stopped, as apt does it; what others left that
        were cut off is removed. Each mirror is asked for one file at a time.

        Args:
            packages: what to bring.
            into: a directory on the cache's file system, made if needed.
            what: what they are, for `progress`.
            progress: told the bytes.

        Returns:
            One path per package, in order.

        Raises:
            FetchFailed: the mirror could not be reached, lacks a file, or served another content.
            ToolMissing, CacheError: as `refresh`.
        """
        work = self.root / "partial"
        targets = [into / f"{package.name}_{package.version}.deb" for package in packages]
        with locked(self.root / "apt"), cache_errors(str(into)):
            work.mkdir(exist_ok=True)
            into.mkdir(parents=True, exist_ok=True)
            for left in set(work.iterdir()) - {_brought(work, package) for package in packages}:
                left.unlink()
            self._tools.must(
                "apt-get",
                "download",
                *(f"{package.name}={package.version}" for package in packages),
                cwd=work,
                progress=progress,
                what=what,
                total=sum(package.size for package in packages),
            )
            for package, target in zip(packages, targets, strict=True):
                # apt writes under the final name from the first byte on: the name proves nothing.
                brought = _brought(work, package)
                if brought is None or sha256_of(brought) != package.sha256:
                    if brought is not None:
                        brought.unlink()
                    raise FetchFailed(
                        f"{package.name} {package.version} did not arrive with the sha256 "
                        f"of its signed index, {package.sha256}",
                        remedy="try again; if it stays, the mirror is being updated or is damaged",
                    )
                brought.replace(target)
        return targets

    def sweep(self) -> None:
        """Remove what downloads that were never taken up again left.

        Raises:
            CacheError: no permission.
        """
        with locked(self.root / "apt"), cache_errors(str(self.root)):
            for path in self.root.glob("partial/*"):
                path.unlink()

    # What follows runs with the lock held.

    @property
    def _tools(self) -> Apt:
        return Apt(self.root)

    @property
    def _stamp(self) -> Path:
        return self.root / "refreshed.json"

    @property
    def _source_list(self) -> Path:
        return self.root / "sources.list"

    def _refresh(self, *, force: bool = False, progress: Progress | None = None) -> tuple[str, ...]:
        if not force and self.age() < FRESH:
            return tuple(json.loads(self._stamp.read_text())["notes"])
        sweep(self.root)
        self._tools.configure(mirrors.source_list())
        with cache_errors(str(self.root)):
            (self.root / "lists" / "partial").mkdir(parents=True, exist_ok=True)
            (self.root / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        code, out, err = self._tools.run(
            "apt-get", "update", what="package indices", total=100, progress=progress
        )
        complaints = [line for line in err.splitlines() if line.startswith(("E:", "W:"))]
        usable = self._suites()
        if not usable or "No space left" in err:
            raise failure("apt-get update", err or out)
        notes = [
            f"{suite}: {_reason(suite, complaints)}"
            for suite in _suite_names(self._source_list.read_text())
            if suite not in usable
        ]
        if code and not re.search(r"^(Get|Hit):\d+ .*InRelease", out, re.MULTILINE):
            # Nothing answered: the old indices serve, and the next command asks again.
            why = complaints[0] if complaints else "apt gave no reason"
            notes.append(f"the mirror does not answer, old indices are used: {why}")
        else:
            write_atomically(self._stamp, json.dumps({"notes": notes}).encode())
        return tuple(notes)

    def _suites(self) -> set[str]:
        rows = self._tools.must(
            "apt-get", "indextargets", "--format", "$(CREATED_BY) $(RELEASE)"
        ).splitlines()
        return {row.split()[1] for row in rows if row.startswith("Packages ")}

    def _describe(self, names: Iterable[str]) -> list[Package]:
        names = list(names)
        if not names:
            return []
        suites: dict[tuple[str, str], dict[str, None]] = {}
        for line in self._tools.must("apt-cache", "madison", *names).splitlines():
            name, version, source = (cell.strip() for cell in line.split("|"))
            if source.endswith("Packages"):
                suite = source.split()[1].partition("/")[0]
                suites.setdefault((name, version), {})[suite] = None
        found: dict[tuple[str, str], Package] = {}
        for stanza in self._tools.must("apt-cache", "show", *names, tolerate=True).split("\n\n"):
            fields = dict(re.findall(r"^([\w-]+): (.*)$", stanza, re.MULTILINE))
            key = fields.get("Package", ""), fields.get("Version", "")
            if "SHA256" in fields and key in suites:
                found[key] = Package(
                    *key,
                    suites=tuple(suites[key]),
                    sha256=fields["SHA256"],
                    size=int(fields["Size"]),
                    depends=fields.get("Depends", ""),
                )
        return sorted(
            found.values(), key=lambda package: (package.name, version_key(package.version))
        )


def _suite_names(source_list: str) -> list[str]:
    return [line.split()[-2] for line in source_list.splitlines()]


def _reason(suite: str, complaints: Sequence[str]) -> str:
    said = [line for line in complaints if re.search(rf"\b{re.escape(suite)}\b(?!-)", line)]
    if any("does not have a Release file" in line for line in said):
        return "the mirror does not carry it"
    return said[-1] if said else "no index"


def _brought(work: Path, package: Package) -> Path | None:
    stem = f"{package.name}_{package.version.replace(':', '%3a')}_"
    return next((path for path in work.iterdir() if path.name.startswith(stem)), None)
