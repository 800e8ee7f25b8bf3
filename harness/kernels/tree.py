"""The kernel last built in a source tree; one that its sources have overtaken is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import KernelNotFound
from harness.kernels.spec import PathSpec, TreeSpec
from harness.kernels.stale import overtaken

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "arch/x86/boot/bzImage"


def find_built(spec: TreeSpec) -> PathSpec:
    """Return where the newest bzImage in a tree and its modules are.

    The tree itself is looked at, and the directories in it that it was built into (`make O=`). Or
    the directory given is such a one.

    Raises:
        KernelNotFound: it is no kernel tree, it has not been built, or not since its sources were
            changed.
    """
    tree = spec.directory.absolute()
    if not tree.is_dir():
        raise KernelNotFound(
            f"there is no directory {tree}", remedy="give the top directory of a kernel tree"
        )
    if not any((tree / mark).is_file() for mark in ("Kconfig", ".config")):
        raise KernelNotFound(
            f"{tree} is no kernel tree: it has neither Kconfig nor .config",
            remedy="give the top directory of one, or of its build",
        )
    images = [path for path in (tree / IMAGE, *tree.glob(f"*/{IMAGE}")) if path.is_file()]
    if not images:
        message, remedy = _why_not_built(tree)
        raise KernelNotFound(message, remedy=remedy)
    image = max(images, key=lambda path: path.stat().st_mtime)
    build = image.parents[3]
    if newer := overtaken(build, image):
        raise KernelNotFound(
            f"{image} is stale: {newer} since it was built",
            remedy=f"build it (make -C {build} -j$(nproc)), or take it as it is: path:{image}",
        )
    return PathSpec(image, build)


def _why_not_built(tree: Path) -> tuple[str, str]:
    if (tree / "vmlinux").is_file():
        return (
            f"{tree} has a vmlinux but no {IMAGE}",
            f"make -C {tree} bzImage, or path:{tree}/vmlinux, if it has the PVH note",
        )
    if (tree / ".config").is_file():
        return f"{tree} is configured but not built", f"make -C {tree} -j$(nproc)"
    return f"{tree} is not built, nor configured", f"make -C {tree} defconfig, then build it"
