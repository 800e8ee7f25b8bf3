"""What a kernel is, told to people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.kernels.image import KernelImage


def facts_of(kernel: KernelImage) -> dict[str, str | list[str]]:
    """Return what is known of a kernel that does not run, by name; a list where it is long."""
    boots = "the bzImage" if kernel.boot.name != "vmlinux" else "the ELF kernel, by its PVH note"
    return {
        "spec": kernel.spec,
        "release": kernel.release,
        "numbers": ".".join(map(str, kernel.numbers)),
        "version": kernel.version,
        "sha256": kernel.sha256,
        "image": str(kernel.vmlinuz),
        "boots": f"{boots}: {kernel.boot}",
        "modules": str(kernel.modules) if kernel.modules else "none: all it needs is built in",
        "config": str(kernel.config) if kernel.config else "not found",
        "packages": [f"{p.name} {p.version} sha256 {p.sha256}" for p in kernel.packages],
    }
