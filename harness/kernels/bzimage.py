"""What is inside a bzImage: its version string, and the ELF kernel that it would unpack.

Decompressing takes the guest two seconds under emulation, and the host an instant. QEMU boots the
ELF directly if it carries the PVH entry note. Source: Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import libarchive
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment
from libarchive.exception import ArchiveError

from harness.errors import KernelNotFound

if TYPE_CHECKING:
    from pathlib import Path

XEN_ELFNOTE_PHYS32_ENTRY = "18"
"""As pyelftools gives a note type that it has no name for."""

_ELF = b"\x7fELF"
_REMEDY = "give the kernel's arch/x86/boot/bzImage (what distributions install as vmlinuz)"


@dataclass(frozen=True)
class BzImage:
    """The parts of a bzImage that we use.

    Attributes:
        banner: its version string: release, builder, and `uname -v`.
        sha256: of the whole file, in hexadecimal.
        payload: the kernel as it is packed inside; empty if the header does not tell (before
            boot protocol 2.08).
    """

    banner: str
    sha256: str
    payload: bytes

    @property
    def release(self) -> str:
        """The kernel's `uname -r`."""
        return self.banner.split(" ", 1)[0]


def read_bzimage(path: Path) -> BzImage:
    """Read a bzImage.

    Raises:
        KernelNotFound: no such file, or it is no bzImage.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KernelNotFound(
            f"cannot read the kernel {path}: {error.strerror}", remedy=_REMEDY
        ) from error
    if len(data) < 0x264 or data[0x202:0x206] != b"HdrS":
        raise KernelNotFound(f"{path} is no bzImage but {_describe(data)}", remedy=_REMEDY)
    protocol, version_at = struct.unpack_from("<H6xH", data, 0x206)
    banner = data[version_at + 0x200 :].split(b"\0", 1)[0].decode(errors="replace")
    if not version_at or not re.match(r"\d+\.\d+", banner):
        raise KernelNotFound(
            f"{path} has a boot header but no version string (found {banner[:40]!r})",
            remedy=_REMEDY,
        )
    payload = b""
    if protocol >= 0x208:
        start, length = struct.unpack_from("<II", data, 0x248)
        start += ((data[0x1F1] or 4) + 1) * 512
        payload = data[start : start + length]
        if len(payload) < length:
            raise KernelNotFound(
                f"{path} is cut off: its kernel should end at byte {start + length}, "
                f"the file has {len(data)}",
                remedy="build or copy it again",
            )
    return BzImage(banner, hashlib.sha256(data).hexdigest(), payload)


def extract_elf(image: BzImage) -> bytes | None:
    """Return the ELF kernel from a bzImage, or None if it is packed in a way we cannot undo."""
    if len(image.payload) < 8:
        return None
    # The build appends the unpacked size, except to gzip, which ends with it anyway.
    (size,) = struct.unpack("<I", image.payload[-4:])
    packed = image.payload if image.payload.startswith(b"\x1f\x8b") else image.payload[:-4]
    try:
        elf = decompress(packed)
    except ArchiveError:
        return None
    return elf if elf.startswith(_ELF) and len(elf) == size else None


def decompress(packed: bytes) -> bytes:
    """Undo gzip, xz, zstd, lz4, lzma or bzip2.

    Raises:
        libarchive.exception.ArchiveError: the data is damaged.
    """
    with libarchive.memory_reader(packed, format_name="raw") as archive:
        for entry in archive:
            return b"".join(entry.get_blocks())
    return b""


def has_pvh_entry(elf: bytes) -> bool:
    """Say whether an ELF kernel has the note by which QEMU can start it directly."""
    try:
        return any(
            note["n_name"] == "Xen" and str(note["n_type"]) == XEN_ELFNOTE_PHYS32_ENTRY
            for segment in ELFFile(io.BytesIO(elf)).iter_segments("PT_NOTE")
            if isinstance(segment, NoteSegment)
            for note in segment.iter_notes()
        )
    except ELFError:
        return False


def _describe(data: bytes) -> str:
    known = (
        (_ELF, "an ELF file (a vmlinux?)"),
        (b"\x1f\x8b", "gzip data"),
        (b"!<arch>", "an ar archive (a .deb?)"),
        (b"070701", "a cpio archive (an initramfs?)"),
        (b"#!", "a script"),
    )
    for magic, name in known:
        if data.startswith(magic):
            return name
    return f"{len(data)} bytes that begin with {data[:8].hex(' ')}" if data else "an empty file"
