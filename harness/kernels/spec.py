"""Kernel specs: the one string that names any kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import KernelNotFound

FLAVOURS = ("cloud", "rt", "amd64")
"""Debian's flavours: for virtual machines (the default), PREEMPT_RT, and the standard one."""

FORMS = (
    "debian:6.1, debian:6.12.43, debian:7.3-rc7 (with -rt or -amd64 for another flavour than "
    "cloud), debian:RELEASE as `cpumap-lab kernels list --all` prints it, "
    "path:BZIMAGE[,modules=DIR], path:VMLINUX[,modules=DIR], deb:FILE[,FILE...], "
    "rpm:FILE[,FILE...], installed[:RELEASE], tree:DIR, build:DIR[@COMMIT]"
)

_DEBIAN = re.compile(r"(\d+\.\d+(?:\.\d+)?(?:-rc\d+)?)(?:-(cloud|rt|amd64))?")
_RELEASE = re.compile(r"\d+\.\d+\S*?-(?:(cloud|rt)-)?amd64")


@dataclass(frozen=True)
class DebianSpec:
    """A kernel of the Debian archive.

    Attributes:
        version: "6.1" for the newest build of that series, "6.12.43" or "7.3-rc7" for that one;
            "" when `release` says it all.
        flavour: one of `FLAVOURS`.
        release: a whole `uname -r`, or "".
    """

    version: str
    flavour: str
    release: str = ""

    def __str__(self) -> str:
        if self.release:
            return f"debian:{self.release}"
        return f"debian:{self.version}" + ("" if self.flavour == "cloud" else f"-{self.flavour}")


@dataclass(frozen=True)
class PathSpec:
    """A kernel file of the user's own.

    Attributes:
        image: a bzImage, or a vmlinux with the PVH note.
        modules: the directory that holds its modules, or None.
    """

    image: Path
    modules: Path | None = None

    def absolute(self) -> PathSpec:
        """Return the same from anywhere."""
        return PathSpec(self.image.absolute(), self.modules and self.modules.absolute())

    def __str__(self) -> str:
        return f"path:{self.image}" + (f",modules={self.modules}" if self.modules else "")


@dataclass(frozen=True)
class PackageSpec:
    """A kernel in package files of the user's own.

    Attributes:
        kind: what they are.
        files: the kernel's package, and those of its modules if they have their own.
    """

    kind: Literal["deb", "rpm"]
    files: tuple[Path, ...]

    def absolute(self) -> PackageSpec:
        """Return the same from anywhere."""
        return PackageSpec(self.kind, tuple(file.absolute() for file in self.files))

    def __str__(self) -> str:
        return f"{self.kind}:{','.join(map(str, self.files))}"


@dataclass(frozen=True)
class InstalledSpec:
    """A kernel that is installed on this machine.

    Attributes:
        release: its `uname -r`; "" for the one that runs now.
    """

    release: str

    def absolute(self) -> InstalledSpec:
        """Return the same from anywhere."""
        return self

    def __str__(self) -> str:
        return f"installed:{self.release}" if self.release else "installed"


@dataclass(frozen=True)
class TreeSpec:
    """The kernel last built in a source tree.

    Attributes:
        directory: the tree, or a directory that it was built into (`make O=`).
    """

    directory: Path

    def absolute(self) -> TreeSpec:
        """Return the same from anywhere."""
        return TreeSpec(self.directory.absolute())

    def __str__(self) -> str:
        return f"tree:{self.directory}"


@dataclass(frozen=True)
class BuildSpec:
    """A kernel to be built from a source tree.

    Attributes:
        directory: the tree.
        commit: of its repository; "" for the tree as it stands.
    """

    directory: Path
    commit: str = ""

    def absolute(self) -> BuildSpec:
        """Return the same from anywhere."""
        return BuildSpec(self.directory.absolute(), self.commit)

    def __str__(self) -> str:
        return f"build:{self.directory}" + (f"@{self.commit}" if self.commit else "")


FileSpec = PathSpec | InstalledSpec | TreeSpec
"""What names a kernel file on this machine, and maybe a directory of modules."""
KernelSpec = DebianSpec | PackageSpec | BuildSpec | FileSpec


def parse_spec(text: str) -> KernelSpec:
    """Read a kernel spec.

    Raises:
        KernelNotFound: it has none of the known forms.
    """
    spec = _parse(text.strip())
    if spec is None:
        raise KernelNotFound(f"`{text}` is no kernel spec", remedy=f"the forms are {FORMS}")
    return spec


def _parse(text: str) -> KernelSpec | None:
    if text == "installed":
        return InstalledSpec("")
    scheme, _, rest = text.partition(":")
    match scheme:
        case "debian":
            if match := _DEBIAN.fullmatch(rest):
                return DebianSpec(match[1], match[2] or "cloud")
            if match := _RELEASE.fullmatch(rest):
                return DebianSpec("", match[1] or "amd64", rest)
        case "path":
            path, *options = rest.split(",modules=")
            if path and len(options) < 2 and all(options):
                return PathSpec(_path(path), _path(options[0]) if options else None)
        case "deb" | "rpm":
            if all(names := rest.split(",")):
                return PackageSpec(scheme, tuple(map(_path, names)))
        case "installed":
            if re.fullmatch(r"\w[\w.+~-]*", rest):
                return InstalledSpec(rest)
        case "tree":
            if rest:
                return TreeSpec(_path(rest))
        case "build":
            directory, at, commit = rest.rpartition("@") if "@" in rest else (rest, "", "")
            if directory and (commit if at else not commit) and not commit.startswith("-"):
                return BuildSpec(_path(directory), commit)
    return None


def _path(text: str) -> Path:
    return Path(text).expanduser()
