"""What a bisection has seen, on disk run by run: it outlives Ctrl-C, a reboot, a full disk.

One line of JSON each, the first of them the request. A line is on the disk before the next run
begins; one that was cut off in the middle is dropped when the journal is read again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bisect.sight import Sight
from harness.errors import UserError
from harness.landing import cache_errors, write_atomically
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

FORMAT = 1
FILE = "journal.jsonl"


class Journal:
    """The journal of one request, which no other process writes meanwhile.

    Args:
        request: all that the answer depends on; another request has another journal.
        restart: forget what an earlier bisection of the same request saw.

    Attributes:
        directory: where it lies; the results of its runs lie in `runs` beside it.
        resumed: how many runs it had when it was opened.

    Raises:
        UserError: the same bisection is under way in another process.
        CacheError: the cache cannot be written.
    """

    def __init__(self, request: Mapping[str, Any], *, restart: bool = False) -> None:
        head = json.dumps({"format": FORMAT, "request": request}, sort_keys=True)
        digest = hashlib.sha256(head.encode()).hexdigest()[:16]
        self.directory = cache_dir("bisect", digest)
        self.path = self.directory / FILE
        self._runs: dict[str, list[Sight]] = {}
        # The lock is a file of its own: the journal is replaced when it is begun anew
        with cache_errors(str(self.directory)):
            self._lock = (self.directory / ".lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "this very bisection is under way in another process",
                remedy=f"wait for it, or end it (`fuser {self._lock.name}` tells which it is)",
            ) from None
        with cache_errors(str(self.path)):
            if restart or not self._read(head):
                self._runs.clear()
                write_atomically(self.path, head.encode() + b"\n")
            self._file = self.path.open("ab")
            _sync_directory(self.directory)
        self.resumed = sum(map(len, self._runs.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.close()

    def runs_of(self, candidate: str) -> tuple[Sight, ...]:
        """Return what was seen of a candidate, in order."""
        return tuple(self._runs.get(candidate, ()))

    def note(self, candidate: str, sight: Sight) -> None:
        """Write down what a run showed; it is on the disk when this returns.

        Raises:
            CacheError: it is not; the journal is as it was before.
        """
        told = asdict(sight) | {"artifacts": sight.artifacts and str(sight.artifacts)}
        line = json.dumps({"candidate": candidate, **told}).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        with cache_errors(str(self.path)):
            try:
                self._file.write(line)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError:
                os.ftruncate(self._file.fileno(), end)
                raise
        self._runs.setdefault(candidate, []).append(sight)

    def _read(self, head: str) -> bool:
        """Take up what is there; False if it is no journal of this request."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return False
        whole = content[: content.rfind(b"\n") + 1]
        first, *lines = whole.decode(errors="replace").splitlines() or [""]
        if first != head:
            return False
        for number, line in enumerate(lines, 2):
            try:
                told = json.loads(line)
                candidate = told.pop("candidate")
                artifacts = told.pop("artifacts")
                sight = Sight(**told, artifacts=Path(artifacts) if artifacts else None)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(
                    f"{self.path}:{number}: this is no line of a journal",
                    remedy="remove the line, or begin anew with --restart",
                ) from None
            self._runs.setdefault(candidate, []).append(sight)
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        return True


def _sync_directory(directory: Path) -> None:
    """Have a file's name on the disk, not only its content."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
