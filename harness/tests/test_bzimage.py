"""What is in a bzImage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.errors import KernelNotFound
from harness.kernels.bzimage import extract_elf, read_bzimage
from harness.kernels.vmlinux import has_pvh_entry
from harness.landing import sha256_of
from harness.tests.fakes import (
    PACKERS,
    PVH,
    make_bzimage,
    make_elf,
    note,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("packer", PACKERS)
def test_payload(tmp_path: Path, packer: str) -> None:
    elf = make_elf({".text": bytes(range(256))}, PVH)
    path = tmp_path / "bzImage"
    path.write_bytes(make_bzimage(elf, packer=packer))
    image = read_bzimage(path)
    assert image.release == "6.1.0-1-cloud-amd64"
    assert image.sha256 == sha256_of(path)
    assert extract_elf(image) == elf


def test_payload_of_another_size_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    data = bytearray(make_bzimage(packer="xz"))
    data[-17] ^= 1  # in the size that follows the payload
    path.write_bytes(data)
    assert extract_elf(read_bzimage(path)) is None


def test_header_without_a_payload(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    data = bytearray(make_bzimage())
    data[0x206:0x208] = b"\x07\x02"  # boot protocol 2.07
    path.write_bytes(data)
    assert extract_elf(read_bzimage(path)) is None


def test_damaged_payload(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    data = bytearray(make_bzimage(packer="xz"))
    data[2 * 512 + 32 + 20 : 2 * 512 + 32 + 40] = bytes(20)
    path.write_bytes(data)
    assert extract_elf(read_bzimage(path)) is None


def test_unknown_packing(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    data = make_bzimage()
    path.write_bytes(data.replace(b"\x1f\x8b\x08", b"LZ?"))
    assert extract_elf(read_bzimage(path)) is None


@pytest.mark.parametrize(
    ("elf", "has"),
    [
        (make_elf(notes=note("Linux", 257) + PVH), True),
        (make_elf(notes=note("Xen", 17) + note("GNU", 18)), False),
        (make_elf(), False),
        (b"\x7fELF", False),
    ],
)
def test_pvh_note(tmp_path: Path, elf: bytes, has: bool) -> None:
    (tmp_path / "vmlinux").write_bytes(elf)
    assert has_pvh_entry(tmp_path / "vmlinux") is has


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (make_elf(), "an ELF file"),
        (b"\x1f\x8b" + bytes(600), "gzip"),
        (b"!<arch>\n" + bytes(600), "an ar archive"),
        (b"#!/bin/sh\n", "a script"),
        (bytes(1024), "1024 bytes that begin with 00 00"),
        (make_bzimage(banner="hello"), "no version string"),
        (make_bzimage()[:-40], "cut off"),
    ],
)
def test_no_kernel(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(KernelNotFound, match=found) as caught:
        read_bzimage(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy
