"""Kernel specs: the one string that names any kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import KernelNotFound

FLAVOURS = ("cloud", "rt", "amd64")
"""Debian's flavours: for virtual machines (the default), PREEMPT_RT, and the standard one."""

FORMS = (
    "debian:6.1, debian:6.12.43, debian:7.3-rc7 (with -rt or -amd64 for another flavour than "
    "cloud), debian:RELEASE as `cpumap-lab kernels list --all` prints it, or "
    "path:BZIMAGE[,modules=DIR]"
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
    """A kernel of the user's own.

    Attributes:
        bzimage: the kernel file.
        modules: the directory that holds its modules, or None.
    """

    bzimage: Path
    modules: Path | None = None

    def __str__(self) -> str:
        return f"path:{self.bzimage}" + (f",modules={self.modules}" if self.modules else "")


KernelSpec = DebianSpec | PathSpec


def parse_spec(text: str) -> KernelSpec:
    """Read a kernel spec.

    Raises:
        KernelNotFound: it has none of the known forms.
    """
    scheme, _, rest = text.strip().partition(":")
    if scheme == "debian":
        if match := _DEBIAN.fullmatch(rest):
            return DebianSpec(match[1], match[2] or "cloud")
        if match := _RELEASE.fullmatch(rest):
            return DebianSpec("", match[1] or "amd64", rest)
    elif scheme == "path":
        path, *options = rest.split(",modules=")
        if path and len(options) < 2:
            modules = Path(options[0]).expanduser() if options and options[0] else None
            if modules or not options:
                return PathSpec(Path(path).expanduser(), modules)
    raise KernelNotFound(f"`{text}` is no kernel spec", remedy=f"the forms are {FORMS}")
