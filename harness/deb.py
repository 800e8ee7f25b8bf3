"""Debian packages: unpacking without dpkg and without root, and the order of versions."""

from __future__ import annotations

import contextlib
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import libarchive
from libarchive.exception import ArchiveError

from harness.archives import extract, nested, why
from harness.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from libarchive.read import ArchiveRead

    from harness.archives import Place


def version_key(version: str) -> tuple[object, ...]:
    """Return a sort key that orders version strings as dpkg does (deb-version(7))."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch), _part_key(upstream), _part_key(revision)


def _part_key(part: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    # A tilde sorts before the end of the part, the end before letters, letters before the rest;
    # the 0 that ends each run of non-digits stands for "the end".
    def order(char: str) -> int:
        return -1 if char == "~" else ord(char) if char.isalpha() else ord(char) + 256

    return tuple(
        ((*map(order, text), 0), int(digits or 0))
        for text, digits in re.findall(r"(\D*)(\d*)", part)
    )


def unpack(deb: Path, into: Path, place: Place = lambda path: path) -> None:
    """Unpack the files of a .deb below a directory.

    Args:
        deb: the package file.
        into: an existing directory.
        place: as in `harness.archives.extract`.

    Raises:
        FetchFailed: the file is no Debian package or it is damaged.
        OSError: the disk is full or not writable.
    """
    with _member(deb, "data.tar") as archive:
        extract(archive, into, place, deb.name)


def read_control(deb: Path) -> dict[str, str]:
    """Return the fields of a package on one line each, like Package, Version, Architecture.

    Raises:
        FetchFailed: the file is no Debian package or it is damaged.
    """
    with _member(deb, "control.tar") as archive:
        for entry in archive:
            if PurePosixPath(entry.pathname).name == "control":
                text = b"".join(entry.get_blocks()).decode(errors="replace")
                return dict(re.findall(r"^([\w-]+): (.*)$", text, re.MULTILINE))
    raise FetchFailed(f"{deb.name} is no Debian package: it has no control file")


@contextlib.contextmanager
def _member(deb: Path, prefix: str) -> Iterator[ArchiveRead]:
    try:
        with libarchive.file_reader(str(deb), "ar") as outer:
            for entry in outer:
                if entry.pathname.startswith(prefix):
                    with nested(entry, "tar") as archive:
                        yield archive
                    return
    except ArchiveError as error:
        raise FetchFailed(
            f"{deb.name} cannot be unpacked: {why(error)}",
            remedy="fetch again; if it stays, the mirror serves a damaged package",
        ) from error
    raise FetchFailed(f"{deb.name} is no Debian package: it has no {prefix} member")
