"""The ELF kernel: `vmlinux` as the build leaves it, or as it is packed inside a bzImage.

QEMU starts it where its PVH note says (load_elfboot in hw/i386/x86-common.c), and refuses one
without. Source: arch/x86/platform/pvh/head.S, xen/interface/elfnote.h.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from harness.errors import KernelNotFound
from harness.landing import sha256_of

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"\x7fELF"
XEN_ELFNOTE_PHYS32_ENTRY = "18"
"""As pyelftools gives a note type that it has no name for."""
_COMPILER = re.compile(r"^(\S+ \([^)]*\)) \(.*\) (#.*)$")
_AGAIN = "build or copy it again"
_BANNER = re.compile(rb"Linux version (\d+\.\d+[^\0\n]+)\n")


@dataclass(frozen=True)
class Vmlinux:
    """What we know of an ELF kernel.

    Attributes:
        banner: as in `BzImage`.
        sha256: of the whole file, in hexadecimal.
    """

    banner: str
    sha256: str

    @property
    def release(self) -> str:
        """The kernel's `uname -r`."""
        return self.banner.split(" ", 1)[0]


def is_elf(path: Path) -> bool:
    """Say whether a file begins as an ELF file does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def read_vmlinux(path: Path) -> Vmlinux:
    """Read an ELF kernel.

    Raises:
        KernelNotFound: it is none, or none that QEMU can start.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            elf = ELFFile(file)
            machine, bits = elf.get_machine_arch(), elf.elfclass
            ends = [s["p_offset"] + s["p_filesz"] for s in elf.iter_segments()]
        except ELFError as error:
            raise KernelNotFound(f"{path} is a damaged ELF file: {error}", remedy=_AGAIN) from error
        banners = _BANNER.findall(data)
        if not banners:
            raise KernelNotFound(
                f"{path} is an ELF file, but no kernel: there is no `Linux version` in it",
                remedy="give the vmlinux at the top of the build, or arch/x86/boot/bzImage",
            )
        # From 6.1 on a weak copy without date and number stays in the file (init/version.c).
        # The compiler, between builder and `uname -v`, is not in a bzImage's: it has versions, too.
        banner = _COMPILER.sub(r"\1 \2", max(banners, key=len).decode(errors="replace"))
        if (machine, bits) != ("x64", 64):
            raise KernelNotFound(
                f"{path} is a kernel for {machine} of {bits} bits, and guests are x86-64",
                remedy="build it with ARCH=x86_64",
            )
        if max(ends, default=0) > len(data):
            raise KernelNotFound(
                f"{path} is cut off: its segments should end at byte {max(ends)}, "
                f"the file has {len(data)}",
                remedy=_AGAIN,
            )
        if not has_pvh_entry(path):
            raise KernelNotFound(
                f"{path} ({banner.split(' ', 1)[0]}) has no PVH note, so QEMU cannot start it",
                remedy="give arch/x86/boot/bzImage of the same build, or build with CONFIG_PVH=y",
            )
    return Vmlinux(banner, sha256_of(path))


def has_pvh_entry(path: Path) -> bool:
    """Say whether an ELF kernel has the note by which QEMU can start it directly."""
    with path.open("rb") as file:
        try:
            return any(
                note["n_name"] == "Xen" and str(note["n_type"]) == XEN_ELFNOTE_PHYS32_ENTRY
                for segment in ELFFile(file).iter_segments("PT_NOTE")
                if isinstance(segment, NoteSegment)
                for note in segment.iter_notes()
            )
        except ELFError:
            return False
