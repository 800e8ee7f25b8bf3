"""Members of archives written to disk, piece by piece, whatever format they come in."""

from __future__ import annotations

import contextlib
import io
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import libarchive
from libarchive.exception import ArchiveError

from harness.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from libarchive.entry import ArchiveEntry
    from libarchive.read import ArchiveRead

    Place = Callable[[str], str | None]

BLOCK = 1 << 16
"""Bytes read at once."""


def extract(archive: ArchiveRead, into: Path, place: Place, what: str) -> None:
    """Write the members of an archive below a directory.

    Args:
        archive: an open reader.
        into: an existing directory.
        place: maps a member's path ("usr/bin/x") to the path below `into`, or to None to leave it
            out.
        what: the archive's name, for errors.

    Raises:
        FetchFailed: a member would land outside `into`.
        libarchive.exception.ArchiveError: the archive is damaged.
        OSError: the disk is full or not writable.
    """
    home = into.resolve()
    for entry in archive:
        source = PurePosixPath(entry.pathname)
        target = place(str(source))
        if target is None or entry.isdir:
            continue
        path = into / target
        path.parent.mkdir(parents=True, exist_ok=True)
        below = path.parent.resolve().is_relative_to(home)  # a symlink may have led elsewhere
        if source.is_absolute() or ".." in source.parts or not below:
            raise FetchFailed(f"{what} has a member outside its root: {source}")
        if not entry.islnk:  # the last of a name counts, and a link is not written through
            path.unlink(missing_ok=True)
        if entry.issym:
            path.symlink_to(entry.linkpath)
        elif entry.islnk:
            linked = place(str(PurePosixPath(entry.linkpath)))
            if linked is not None:
                path.hardlink_to(into / linked)
        elif entry.isreg:
            with path.open("wb") as file:
                for block in entry.get_blocks(BLOCK):
                    file.write(block)
            path.chmod(0o755 if entry.perm & 0o100 else 0o644)


def why(error: ArchiveError) -> str:
    """Return what is wrong with an archive; libarchive has no word for some that are cut off."""
    return (error.msg or "it is cut off or damaged").strip()


@contextlib.contextmanager
def nested(entry: ArchiveEntry, format_name: str) -> Iterator[ArchiveRead]:
    """Give a reader of the archive that a member of another is, without holding it in memory.

    Raises:
        libarchive.exception.ArchiveError: either archive is damaged.
    """
    stream = _Member(entry)
    try:
        with libarchive.stream_reader(stream, format_name, block_size=BLOCK) as archive:
            yield archive
    except ArchiveError as error:
        raise stream.error or error from error


class _Member(io.RawIOBase):
    """The content of an archive's member, as libarchive reads streams."""

    def __init__(self, entry: ArchiveEntry) -> None:
        self.error: ArchiveError | None = None
        self._blocks = entry.get_blocks(BLOCK)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self._left = self._left or memoryview(next(self._blocks, b""))
        except ArchiveError as error:  # nothing may be raised through libarchive
            self.error = error
            return 0
        count = min(len(buffer), len(self._left))
        memoryview(buffer).cast("B")[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
