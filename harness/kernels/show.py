"""What a kernel is, told to people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.kernels.examine import options_in, unfit

if TYPE_CHECKING:
    from harness.kernels.image import KernelImage


def facts_of(kernel: KernelImage) -> dict[str, str | list[str]]:
    """Return what is known of a kernel that does not run, by name; a list where it is long."""
    boots = "the bzImage" if kernel.boot.name != "vmlinux" else "the ELF kernel, by its PVH note"
    inside = "not found" if options_in(kernel) is None else "in the kernel itself (IKCONFIG)"
    return {
        "spec": kernel.spec,
        "release": kernel.release,
        "numbers": ".".join(map(str, kernel.numbers)),
        "version": kernel.version,
        "sha256": kernel.sha256,
        "image": str(kernel.vmlinuz),
        "boots": f"{boots}: {kernel.boot}",
        "modules": str(kernel.modules) if kernel.modules else "none",
        "config": str(kernel.config) if kernel.config else inside,
        "lacks": unfit(kernel),
        "packages": [f"{p.name} {p.version} sha256 {p.sha256}" for p in kernel.packages],
    }
