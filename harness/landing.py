"""Cache entries land whole or not at all, whoever is killed whenever.

A directory is filled under a working name beside its final one and renamed when it is complete; a
lock per entry keeps two builders apart. What a killed builder left behind is swept away by the next
one that holds the same lock, so nothing half-written is ever seen under a final name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from harness.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK_DEADLINE = 1800.0
"""Seconds to wait for another builder of the same entry: a slow download must fit in."""


@contextlib.contextmanager
def cache_errors(what: str) -> Iterator[None]:
    """Turn an operating system error while writing `what` into a `CacheError`.

    Raises:
        CacheError: with a remedy that fits the errno.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = (
                "free some space (`cpumap-lab kernels prune`), "
                "or point CPUMAP_LAB_CACHE to a larger disk"
            )
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "set CPUMAP_LAB_CACHE to a directory that you can write"
        else:
            remedy = "check the disk that holds CPUMAP_LAB_CACHE"
        raise CacheError(
            f"cannot write {what}: {error.strerror or error}", remedy=remedy
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file that goes with `path` (`.<name>.lock` beside it).

    Raises:
        CacheError: another process kept it for `LOCK_DEADLINE` seconds, or it cannot be made.
    """
    lock = _lock(path)
    with cache_errors(f"the lock of {path}"):
        try:
            lock.acquire(timeout=LOCK_DEADLINE)
        except filelock.Timeout as error:
            raise CacheError(
                f"another process has been at work on {path} for {LOCK_DEADLINE:.0f} s",
                remedy=f"see who holds it (`fuser {lock.lock_file}`), end it and try again",
            ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds the lock that goes with `path`."""
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def land_directory(dest: Path, fill: Callable[[Path], None]) -> Path:
    """Return the directory `dest`, filled by `fill(working directory)` if it is not there yet.

    Args:
        dest: the final name; it exists only when it is complete.
        fill: writes the content; what it raises is passed on and nothing lands.

    Raises:
        CacheError: no space, no permission, or the lock was never free.
    """
    if dest.is_dir():
        return dest
    with locked(dest):
        if dest.is_dir():
            return dest
        part = _part(dest)
        with cache_errors(str(dest)):
            try:
                _remove(part)
                part.mkdir()
                fill(part)
                part.rename(dest)
            finally:
                _remove(part)
    return dest


def take_away(dest: Path) -> None:
    """Remove a landed directory: gone at once for all who look, whatever happens on the way.

    Raises:
        CacheError: no permission, or the lock was never free.
    """
    with locked(dest), cache_errors(str(dest)):
        part = _part(dest)
        _remove(part)
        with contextlib.suppress(FileNotFoundError):
            dest.rename(part)
        _remove(part)


def sweep(directory: Path) -> None:
    """Remove what killed builders and writers left in a directory; what is being made now stays.

    Raises:
        CacheError: no permission.
    """
    with cache_errors(str(directory)):
        for part in directory.glob(".*.part"):
            dest = directory / part.name.removeprefix(".").removesuffix(".part")
            with contextlib.suppress(filelock.Timeout), _lock(dest).acquire(timeout=0):
                _remove(part)
        for temporary in directory.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError, BlockingIOError), temporary.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its writer holds it to the end
                temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Raises:
        CacheError: no space or no permission.
    """
    with cache_errors(str(path)):
        descriptor, temporary = _temporary(path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                temporary.chmod(0o644)
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _temporary(path: Path) -> tuple[int, Path]:
    """Make a file beside another, locked so that `sweep` knows that its writer lives."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)  # swept before it was locked


def _lock(path: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(path.parent / f".{path.name}.lock")


def _part(dest: Path) -> Path:
    return dest.parent / f".{dest.name}.part"


def _remove(tree: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(tree)


def disk_bytes(directory: Path) -> int:
    """Return what a directory's files take of the disk; another may be taking them away."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for file in directory.rglob("*"):
            total += file.lstat().st_blocks * 512
    return total


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
