"""What a resolved kernel is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class KernelPackage:
    """A package file that (a part of) a kernel came in.

    Attributes:
        name: its name, like "linux-image-6.1.0-56-cloud-amd64".
        version: the package version, like "6.1.192-2".
        sha256: of the file, in hexadecimal.
    """

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class KernelImage:
    """A kernel on this machine's disk, ready to boot.

    Attributes:
        spec: the spec that was resolved, in its canonical form.
        release: its `uname -r`.
        version: the Debian package version; for a kernel of one's own, the bzImage's banner.
        boot: the file for QEMU: the ELF kernel if it has the PVH note, else the bzImage.
        vmlinuz: the bzImage; the ELF kernel where that is what the spec names.
        modules: the directory that holds `kernel/` (".../modules/<release>"), or None.
        config: its build configuration, or None.
        sha256: of `vmlinuz`, in hexadecimal.
        packages: what it was unpacked from, if it was.
    """

    spec: str
    release: str
    version: str
    boot: Path
    vmlinuz: Path
    modules: Path | None
    config: Path | None
    sha256: str
    packages: tuple[KernelPackage, ...] = ()

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The upstream version, like (6, 1, 192); the last is 0 for a release candidate."""
        return kernel_numbers(self.version)


@dataclass(frozen=True)
class RunningKernel:
    """The kernel that a target runs.

    Attributes:
        spec: the target.
        release: its `uname -r`.
        version: its banner, /proc/version.
        config: a copy of its configuration, or None.
        sha256: "": nobody has its file.
    """

    spec: str
    release: str
    version: str
    config: Path | None
    sha256: str = ""

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The upstream version, like (6, 1, 192)."""
        # not what is between: the compiler has a version too, and Debian's is "Debian 10.2.1-6"
        said, _, build = self.version.removeprefix("Linux version ").partition(" #")
        return kernel_numbers(f"{said.partition(' ')[0]} #{build}")


@dataclass(frozen=True)
class Pin:
    """What a kernel has to be: as `KernelImage`."""

    release: str
    version: str
    sha256: str
    packages: frozenset[KernelPackage]

    @classmethod
    def of(cls, kernel: KernelImage) -> Pin:
        """Return what holds a spec to this very kernel."""
        return cls(kernel.release, kernel.version, kernel.sha256, frozenset(kernel.packages))


def kernel_numbers(version: str) -> tuple[int, int, int]:
    """Return the upstream version in a package version or a bzImage's banner.

    Debian's 6.1 releases are all called 6.1.0-NN; only the banner's "Debian 6.1.192-2" tells.
    """
    match = re.search(r"\bDebian (\d+)\.(\d+)(?:\.(\d+))?", version) or re.match(
        r"(\d+)\.(\d+)(?:\.(\d+))?", version
    )
    if match is None:
        raise ValueError(f"no kernel version: {version!r}")
    return int(match[1]), int(match[2]), int(match[3] or 0)
