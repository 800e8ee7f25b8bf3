"""What a kernel was built with, found out before it boots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.kernels.bzimage import decompress, extract_elf, read_bzimage
from harness.kernels.kconfig import options_of
from harness.kernels.vmlinux import is_elf

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.kernels.image import KernelImage

IKCONFIG_START, IKCONFIG_END = b"IKCFG_ST", b"IKCFG_ED"
"""Around the configuration inside a kernel with CONFIG_IKCONFIG (kernel/configs.c)."""


def options_in(kernel: KernelImage) -> dict[str, str] | None:
    """Return a kernel's options by name, as `options_of`; None if nothing tells them.

    They come from the file that lies with the kernel, or out of the kernel itself.
    """
    if kernel.config is not None:
        return options_of(kernel.config.read_text())
    embedded = _embedded(kernel)
    return None if embedded is None else options_of(embedded)


def lacking(kernel: KernelImage, options: Iterable[str]) -> list[str]:
    """Return which options a kernel is known to lack, like "CONFIG_VETH"."""
    wanted = list(options)
    there = options_in(kernel) if wanted else None
    if there is None:
        return []
    return [f"CONFIG_{name}" for name in wanted if there.get(name, "n") == "n"]


def _embedded(kernel: KernelImage) -> str | None:
    if is_elf(kernel.boot):
        elf: bytes | None = kernel.boot.read_bytes()
    else:
        elf = extract_elf(read_bzimage(kernel.vmlinuz))
    _, start, rest = (elf or b"").partition(IKCONFIG_START)
    packed, end, _ = rest.partition(IKCONFIG_END)
    return decompress(packed).decode(errors="replace") if start and end else None
