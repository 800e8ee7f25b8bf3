"""What a kernel was built with, found out before it boots: a hang would tell nothing."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from libarchive.exception import ArchiveError

from harness.kernels.bzimage import decompress, extract_elf, read_bzimage
from harness.kernels.image import RunningKernel
from harness.kernels.kconfig import options_of
from harness.kernels.vmlinux import is_elf

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.kernels.image import KernelImage

NEEDED = {
    "SMP": "several CPUs",
    "BLK_DEV_INITRD": "its root is an initramfs",
    "BINFMT_ELF": "the agent is a program",
    "DEVTMPFS": "the agent's device files",
    "PROC_FS": "the agent looks at tasks",
    "SERIAL_8250_CONSOLE": "the console",
    "VIRTIO_PCI": "the devices",
    "VIRTIO_CONSOLE": "the link to the agent",
    "VIRTIO_NET": "the NICs",
    "INET": "the stack that frames are delivered to",
    "BPF_SYSCALL": "programs and maps",
    "NET_SCH_INGRESS": "the tc program that sees frames arrive",
    "NET_CLS_BPF": "the tc program that sees frames arrive",
    "EVENT_TRACING": "tracefs and the tracepoints of XDP",
}
"""Options that no guest does without, each with what it is there for."""
SLOWER = {"KASAN": 4.0, "PROVE_LOCKING": 2.0, "DEBUG_KMEMLEAK": 1.5, "KCSAN": 4.0}
"""How many times longer a guest may take under emulation: deadlines only, no verdict."""
IKCONFIG_START, IKCONFIG_END = b"IKCFG_ST", b"IKCFG_ED"
"""Around the configuration inside a kernel with CONFIG_IKCONFIG (kernel/configs.c)."""


@cache
def options_in(kernel: KernelImage | RunningKernel) -> dict[str, str] | None:
    """Return a kernel's options by name, as `options_of`; None if nothing tells them.

    They come from the file that lies with the kernel, or out of the kernel itself.
    """
    if kernel.config is not None:
        return options_of(kernel.config.read_text()) or None
    if isinstance(kernel, RunningKernel):
        return None
    return options_of(_embedded(kernel)) or None


def unfit(kernel: KernelImage) -> list[str]:
    """Return what a kernel is known to lack that no guest does without: option and purpose."""
    options = options_in(kernel)
    if options is None:
        return []
    faults = []
    for name, purpose in NEEDED.items():
        value = options.get(name, "n")
        if value == "n":
            faults.append(f"CONFIG_{name} ({purpose})")
        elif value == "m" and kernel.modules is None:
            faults.append(f"the module of CONFIG_{name}=m ({purpose})")
    return faults


def lacking(kernel: KernelImage | RunningKernel, names: Iterable[str]) -> list[str]:
    """Return which of these options a kernel is known to lack, like "CONFIG_FAILSLAB"."""
    wanted = list(names)
    options = options_in(kernel) if wanted else None
    if options is None:
        return []
    return [f"CONFIG_{name}" for name in wanted if options.get(name, "n") == "n"]


def why_without(kernel: KernelImage | RunningKernel, names: Iterable[str]) -> str | None:
    """Return why what takes these options is not run on a kernel; None if it can be tried.

    An image that tells nothing is tried: we know how such a guest fails. A machine of somebody's is
    not, where it cannot be told what it lacks from what it does wrong.
    """
    wanted = list(names)
    if absent := lacking(kernel, wanted):
        return f"no {', '.join(absent)} in {kernel.release}"
    if wanted and isinstance(kernel, RunningKernel) and options_in(kernel) is None:
        options = ", ".join(f"CONFIG_{name}" for name in wanted)
        return f"it takes {options}; no /boot/config-{kernel.release} there tells of that"
    return None


def why_too_many(kernel: KernelImage | RunningKernel, cpus: int) -> str | None:
    """Return why a kernel does not run so many CPUs; None if it may."""
    most = int((options_in(kernel) or {}).get("NR_CPUS", cpus))
    if cpus > most:
        return f"{kernel.release} takes {most} CPUs, not {cpus} (CONFIG_NR_CPUS)"
    return None


def slowdown(kernel: KernelImage) -> float:
    """Return how many times longer than on an ordinary kernel everything may take."""
    options = options_in(kernel) or {}
    return math.prod(factor for name, factor in SLOWER.items() if options.get(name, "n") == "y")


def _embedded(kernel: KernelImage) -> str:
    if is_elf(kernel.boot):
        elf: bytes | None = kernel.boot.read_bytes()
    else:
        elf = extract_elf(read_bzimage(kernel.vmlinuz))
    _, _, rest = (elf or b"").partition(IKCONFIG_START)
    packed, end, _ = rest.partition(IKCONFIG_END)
    if not end:
        return ""
    try:
        return decompress(packed).decode(errors="replace")
    except ArchiveError:
        return ""
