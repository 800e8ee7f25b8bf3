"""Where virtme-ng is: it builds kernels for us, and its boots are what ours are compared with."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def find_vng() -> Path | None:
    """Return `vng`, beside this Python or on PATH; None when it is not installed."""
    found = shutil.which("vng", path=search_path(Path(sys.executable)))
    return Path(found) if found else None


def search_path(program: Path) -> str:
    """Return a PATH with a program's own directory first, and those of root's tools last."""
    return os.pathsep.join([str(program.parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
