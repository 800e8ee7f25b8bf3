"""What is kept of a run: one directory each, whole or not at all, and only so many of them."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.landing import cache_errors
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

KEEP = 200
MAX_BYTES = 16 << 20
"""Of one file; of what is longer, the end is kept."""


def name_results(scenario: str, kernel: str) -> Path:
    """Return a directory for the results of a run that ends now; it is not made yet.

    Names sort by time. They hold no character that a shell would want quoted.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    parts = (stamp, _slug(scenario), _slug(kernel), secrets.token_hex(3))
    return cache_dir("results") / "-".join(parts)


def keep_results(directory: Path, files: Mapping[str, str], *, keep: int = KEEP) -> None:
    """Write the results of a run, and remove the oldest runs' beyond `keep`.

    Args:
        directory: from `name_results`.
        files: text by file name.
        keep: how many runs to keep, this one included.

    Raises:
        CacheError: no space or no permission.
    """
    with cache_errors(str(directory)):
        # Where running guests have their files: what a killed harness leaves there is swept away
        part = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=cache_dir("run")))
        try:
            part.chmod(0o755)
            for name, text in files.items():
                content = text.encode("utf-8", "replace")
                (part / name).write_bytes(content[-MAX_BYTES:])
            part.rename(directory)
            _prune(directory.parent, part, keep)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _prune(root: Path, bin_: Path, keep: int) -> None:
    runs = sorted(path for path in root.iterdir() if path.is_dir())
    for run in runs[: max(len(runs) - keep, 0)]:
        with contextlib.suppress(FileNotFoundError):  # somebody else prunes as well
            run.rename(bin_)
            shutil.rmtree(bin_)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+]+", "-", text).strip("-.")[:60] or "unnamed"
