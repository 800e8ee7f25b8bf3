"""virtme-ng, which builds kernels and boots guests; with its boots ours are compared as well."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ToolMissing

if TYPE_CHECKING:
    from harness.kernels.image import KernelImage

NEEDED = {"depmod": "kmod", "modprobe": "kmod", "busybox": "busybox-static", "file": "file"}
"""Programs that it calls for a kernel with modules, and their packages."""


def find_vng() -> Path | None:
    """Return `vng`, beside this Python or on PATH; None when it is not installed."""
    found = shutil.which("vng", path=search_path(Path(sys.executable)))
    return Path(found) if found else None


def search_path(program: Path) -> str:
    """Return a PATH with a program's own directory first, and those of root's tools last."""
    return os.pathsep.join([str(program.parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def need_vng(kernel: KernelImage) -> Path:
    """Return `vng`, which has all that it needs for a kernel.

    Raises:
        ToolMissing: it is not installed, or this machine lacks a tool that it calls.
    """
    vng = find_vng()
    if vng is None:
        raise ToolMissing("virtme-ng is not installed", remedy="run `ci/setup`")
    places = search_path(vng)
    lacking = [tool for tool in NEEDED if shutil.which(tool, path=places) is None]
    if lacking and kernel.modules is not None:
        packages = dict.fromkeys(NEEDED[tool] for tool in lacking)
        raise ToolMissing(
            f"virtme-ng needs {', '.join(lacking)} for a kernel with modules",
            remedy=f"install the packages {' '.join(packages)}",
        )
    return vng


def lay_out_kernel(kernel: KernelImage, root: Path) -> Path:
    """Make a tree like an installed kernel's and return its image.

    vng looks for modules from the kernel's own directory upwards, and writes its indices beside
    them: a tree of its own keeps them out of the cached kernel.
    """
    modules = root / "lib/modules" / kernel.release
    modules.mkdir(parents=True)
    if kernel.modules is not None:
        for path in kernel.modules.iterdir():
            (modules / path.name).symlink_to(path)
    image = root / f"boot/vmlinuz-{kernel.release}"
    image.parent.mkdir()
    image.symlink_to(kernel.vmlinuz)
    return image
