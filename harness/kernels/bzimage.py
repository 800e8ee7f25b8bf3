"""What is inside a bzImage: its version string, and the ELF kernel that it would unpack.

Decompressing takes the guest two seconds under emulation, and the host an instant; vmlinux.py says
how QEMU boots the ELF. Source: Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import libarchive
from libarchive.exception import ArchiveError

from harness.archives import BLOCK
from harness.errors import KernelNotFound
from harness.kernels.vmlinux import MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

XLF_KERNEL_64 = 1
"""In the boot header's xloadflags: it has a 64-bit entry."""
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


def read_bzimage(path: Path, called: str = "") -> BzImage:
    """Read a bzImage.

    Args:
        path: the file.
        called: what errors call it, instead of its path.

    Raises:
        KernelNotFound: no such file, or it is no bzImage.
    """
    called = called or str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KernelNotFound(f"cannot read {called}: {error.strerror}", remedy=_REMEDY) from error
    if len(data) < 0x264 or data[0x202:0x206] != b"HdrS":
        raise KernelNotFound(f"{called} is no bzImage but {_describe(data)}", remedy=_REMEDY)
    protocol, version_at = struct.unpack_from("<H6xH", data, 0x206)
    banner = data[version_at + 0x200 :].split(b"\0", 1)[0].decode(errors="replace")
    if not version_at or not re.match(r"\d+\.\d+", banner):
        raise KernelNotFound(
            f"{called} has a boot header but no version string (found {banner[:40]!r})",
            remedy=_REMEDY,
        )
    if protocol >= 0x20C and not data[0x236] & XLF_KERNEL_64:
        raise KernelNotFound(
            f"{called} ({banner.split(' ', 1)[0]}) is a kernel of 32 bits, and guests are x86-64",
            remedy="build it with ARCH=x86_64",
        )
    payload = b""
    if protocol >= 0x208:
        start, length = struct.unpack_from("<II", data, 0x248)
        start += ((data[0x1F1] or 4) + 1) * 512
        payload = data[start : start + length]
        if len(payload) < length:
            raise KernelNotFound(
                f"{called} is cut off: its kernel should end at byte {start + length}, "
                f"the file has {len(data)}",
                remedy="build or copy it again",
            )
    return BzImage(banner, hashlib.sha256(data).hexdigest(), payload)


def extract_elf(image: BzImage) -> bytes | None:
    """Return the ELF kernel from a bzImage, or None if it is packed in a way we cannot undo."""
    pieces = io.BytesIO()
    return pieces.getvalue() if write_elf(image, pieces) else None


def write_elf(image: BzImage, into: BinaryIO) -> bool:
    """Write the ELF kernel from a bzImage; False if it is packed in a way we cannot undo."""
    if len(image.payload) < 8:
        return False
    # The build appends the unpacked size, except to gzip, which ends with it anyway.
    (size,) = struct.unpack("<I", image.payload[-4:])
    packed = image.payload if image.payload.startswith(b"\x1f\x8b") else image.payload[:-4]
    magic = b""
    try:
        for piece in unpacked(packed):
            magic = magic or piece[:4]
            into.write(piece)
    except ArchiveError:
        return False
    return magic == MAGIC and into.tell() == size


def decompress(packed: bytes) -> bytes:
    """Undo gzip, xz, zstd, lz4, lzma or bzip2.

    Raises:
        libarchive.exception.ArchiveError: the data is damaged.
    """
    return b"".join(unpacked(packed))


def unpacked(packed: bytes) -> Iterator[bytes]:
    """Yield what `decompress` returns, in pieces."""
    with libarchive.memory_reader(packed, format_name="raw") as archive:
        for entry in archive:
            yield from entry.get_blocks(BLOCK)


def _describe(data: bytes) -> str:
    known = (
        (MAGIC, "an ELF file"),
        (b"\x1f\x8b", "gzip data"),
        (b"!<arch>", "an ar archive (a .deb?)"),
        (b"070701", "a cpio archive (an initramfs?)"),
        (b"\xed\xab\xee\xdb", "an RPM package"),
        (b"MZ", "an EFI program, but no kernel for x86 (for another machine?)"),
        (b"#!", "a script"),
    )
    for magic, name in known:
        if data.startswith(magic):
            return name
    return f"{len(data)} bytes that begin with {data[:8].hex(' ')}" if data else "an empty file"
