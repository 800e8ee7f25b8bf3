"""RPM packages: unpacking without rpm and without root.

libarchive undoes the payload; it has no face for what the header says, for which there is rpmfile.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import libarchive
from libarchive.exception import ArchiveError

from harness.archives import extract, why
from harness.errors import FetchFailed

if TYPE_CHECKING:
    from pathlib import Path

    from harness.archives import Place

LEAD = b"\xed\xab\xee\xdb"
_REMEDY = "download it again, or build it again"
_DAMAGED = (AssertionError, IndexError, KeyError, TypeError, ValueError, struct.error)
"""What rpmfile raises on a header that it cannot read, beside its own error."""


def read_header(rpm: Path) -> dict[str, str]:
    """Return a package's name, version ("VERSION-RELEASE") and arch.

    Raises:
        FetchFailed: the file is no RPM package or it is damaged.
        OSError: it cannot be read.
    """
    import rpmfile  # noqa: PLC0415 - only here
    from rpmfile.errors import RPMError  # noqa: PLC0415

    with rpm.open("rb") as file:
        if file.read(4) != LEAD:
            raise FetchFailed(f"{rpm.name} is no RPM package", remedy=_REMEDY)
        file.seek(0)
        try:
            headers = rpmfile.RPMFile(fileobj=file).headers
            told = {tag: headers[tag].decode() for tag in ("name", "version", "release", "arch")}
        except (*_DAMAGED, RPMError) as error:
            raise FetchFailed(
                f"{rpm.name} has a damaged header: {error}", remedy=_REMEDY
            ) from error
    return told | {"version": f"{told['version']}-{told['release']}"}


def unpack(rpm: Path, into: Path, place: Place = lambda path: path) -> None:
    """Unpack the files of an .rpm below a directory.

    Args:
        rpm: the package file.
        into: an existing directory.
        place: as in `harness.archives.extract`.

    Raises:
        FetchFailed: the file is damaged, or packed in a way that libarchive cannot undo.
        OSError: the disk is full or not writable.
    """
    try:
        with libarchive.file_reader(str(rpm), "cpio") as archive:
            extract(archive, into, place, rpm.name)
    except ArchiveError as error:
        raise FetchFailed(f"{rpm.name} cannot be unpacked: {why(error)}", remedy=_REMEDY) from error
