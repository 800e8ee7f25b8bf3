"""What is kept of a run or a case: one directory each, whole or not at all, and only so many."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from harness.landing import cache_errors, disk_bytes
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
"""Of run.json; a newer one is refused."""
KEEP = 200
KEEP_DAYS = 30
KEEP_BYTES = 4 << 30
"""Of all runs together; the newest stays, whatever it takes."""
MAX_BYTES = 16 << 20
"""Of one text; of what is longer, the end is kept."""
STAMP = re.compile(r"\d{8}T\d{6}Z-")


def name_results(scenario: str, kernel: str, root: Path | None = None) -> Path:
    """Return a directory for the results of a run that ends now; it is not made yet.

    Names sort by time. They hold no character that a shell would want quoted.

    Args:
        scenario: or case.
        kernel: its release, or spec.
        root: where; None is in the cache.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    parts = (stamp, _slug(scenario), _slug(kernel), secrets.token_hex(3))
    return (root or cache_dir("results")) / "-".join(parts)


def keep_results(
    directory: Path,
    files: Mapping[str, str | bytes],
    big: Mapping[str, Path] | None = None,
    *,
    keep: int = KEEP,
) -> None:
    """Write the results of a run, and remove the oldest beyond `keep` and the other bounds.

    Args:
        directory: from `name_results`, or beside what others of it named.
        files: content by file name.
        big: files in the cache to be moved in, by their new name.
        keep: how many runs to keep, this one included.

    Raises:
        CacheError: no space or no permission.
    """
    with cache_errors(str(directory)):
        # Where running guests have their files: what a killed harness leaves there is swept away
        part = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=cache_dir("run")))
        try:
            part.chmod(0o755)
            for name, content in files.items():
                (part / name).write_bytes(_bound(content))
            for name, path in (big or {}).items():
                shutil.move(path, part / name)
            directory.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(part, directory)
            _prune(directory.parent, part, keep)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _bound(content: str | bytes) -> bytes:
    if isinstance(content, bytes):
        return content
    return content.encode("utf-8", "replace")[-MAX_BYTES:]


def _prune(root: Path, bin_: Path, keep: int) -> None:
    # in a directory of the user's there may be others than ours
    ours = (path for path in root.iterdir() if STAMP.match(path.name) and path.is_dir())
    runs = sorted(ours, reverse=True)
    oldest = datetime.now(UTC) - timedelta(days=KEEP_DAYS)
    size, gone = 0, list[Path]()
    for number, run in enumerate(runs):
        size += disk_bytes(run)
        past = run.name < f"{oldest:%Y%m%dT%H%M%SZ}"
        if number and (number >= keep or past or size > KEEP_BYTES):
            gone.append(run)
    for run in gone:
        with contextlib.suppress(FileNotFoundError):  # somebody else prunes as well
            shutil.move(run, bin_)
            shutil.rmtree(bin_)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+]+", "-", text).strip("-.")[:60] or "unnamed"
