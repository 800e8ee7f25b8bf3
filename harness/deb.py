"""Debian packages: unpacking without dpkg and without root, and the order of versions."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import libarchive
from libarchive.exception import ArchiveError

from harness.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Callable


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


def unpack(deb: Path, into: Path, place: Callable[[str], str | None] = lambda path: path) -> None:
    """Unpack the files of a .deb below a directory.

    Args:
        deb: the package file.
        into: an existing directory.
        place: maps a member's path ("usr/bin/x") to the path below `into`, or to None to leave it
            out.

    Raises:
        FetchFailed: the file is no Debian package or it is damaged.
        OSError: the disk is full or not writable.
    """
    try:
        with libarchive.memory_reader(_data_member(deb), "tar") as archive:
            for entry in archive:
                source = PurePosixPath(entry.pathname)
                target = place(str(source))
                if target is None or entry.isdir:
                    continue
                if source.is_absolute() or ".." in source.parts:
                    raise FetchFailed(f"{deb.name} has a member outside its root: {source}")
                path = into / target
                path.parent.mkdir(parents=True, exist_ok=True)
                if entry.issym:
                    path.symlink_to(entry.linkpath)
                elif entry.islnk:
                    linked = place(str(PurePosixPath(entry.linkpath)))
                    if linked is not None:
                        path.hardlink_to(into / linked)
                elif entry.isreg:
                    with path.open("wb") as file:
                        for block in entry.get_blocks():
                            file.write(block)
                    path.chmod(0o755 if entry.perm & 0o100 else 0o644)
    except ArchiveError as error:
        raise FetchFailed(
            f"{deb.name} cannot be unpacked: {error}",
            remedy="fetch again; if it stays, the mirror serves a damaged package",
        ) from error


def _data_member(deb: Path) -> bytes:
    with libarchive.file_reader(str(deb), "ar") as archive:
        for entry in archive:
            if entry.pathname.startswith("data.tar"):
                return b"".join(entry.get_blocks())
    raise FetchFailed(f"{deb.name} is no Debian package: it has no data.tar member")
