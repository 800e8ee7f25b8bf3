"""QEMU's gdb stub, and the gdb command line that goes with a guest's kernel."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from elftools.elf.elffile import ELFFile

from harness.errors import GuestError, UserError
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.agent.link import Link
    from harness.kernels import KernelImage
    from harness.machine.machine import Machine

SUN_PATH = 108
"""Bytes that the path of a UNIX socket can have, its end included (unix(7))."""
TEXT = 0xFFFFFFFF81000000
"""Where a kernel's text begins if it was not moved (CONFIG_PHYSICAL_START)."""
SHOWN = ("cpu_map_kthread_run", "cpu_map_enqueue", "bq_flush_to_queue", "__cpu_map_entry_alloc")
"""Functions of cpumap.c to stop in, where a kernel has not inlined them."""
MAX_KALLSYMS = 32 << 20


def open_stub(machine: Machine) -> Path:
    """Open a QEMU's gdb stub, on a socket in the machine's own directory, which others cannot see.

    Raises:
        UserError: the directory's path is too long for a socket.
        QemuFailed: QEMU has gone.
    """
    path = machine.directory / "gdb"
    if len(bytes(path)) >= SUN_PATH:
        raise UserError(
            f"{path} is too long for a socket ({SUN_PATH - 1} bytes fit)",
            remedy="point CPUMAP_LAB_CACHE to a directory with a shorter path",
        )
    where = str(path).replace(",", ",,")
    line = f"gdbserver unix:{where},server=on,wait=off"
    said = machine.qmp("human-monitor-command", **{"command-line": line})
    if not path.is_socket():
        raise UserError(f"QEMU opens no gdb stub: {said.strip()}")
    return path


def ask_symbols(link: Link) -> dict[str, int]:
    """Return the addresses of the kernel's own text and of some functions of cpumap.c, by name.

    None is known if it has no /proc/kallsyms.

    Raises:
        AgentLost: the guest does not answer.
    """
    try:
        content: bytes = link.call("read", "/proc/kallsyms", MAX_KALLSYMS)
    except GuestError:
        return {}
    wanted = {"_text", *SHOWN}
    rows = (line.split() for line in content.decode("ascii", "replace").splitlines())
    return {row[2]: int(row[0], 16) for row in rows if len(row) == 3 and row[2] in wanted}


def heard_symbols(console: str) -> dict[str, int]:
    """Return where the kernel's text is, if it said so: one that panics does.

    (arch/x86/kernel/setup.c, dump_kernel_offset)
    """
    if found := re.search(r"Kernel Offset: 0x([0-9a-f]+) from 0x([0-9a-f]+)", console):
        return {"_text": int(found[1], 16) + int(found[2], 16)}
    return {"_text": TEXT} if "Kernel Offset: disabled" in console else {}


def find_vmlinux(kernel: KernelImage) -> Path | None:
    """Return a kernel's vmlinux with debug information, if it is on this machine.

    That is the one that it was built with, or that its package of debug symbols has, be it
    installed or unpacked to `symbols` in the cache.
    """
    names = (f"boot/vmlinux-{kernel.release}", f"lib/modules/{kernel.release}/vmlinux")
    roots = (cache_dir("symbols") / "usr/lib/debug", Path("/usr/lib/debug"))
    # a bzImage lies in arch/x86/boot of what it was built in
    built = [kernel.vmlinuz, *(above / "vmlinux" for above in list(kernel.vmlinuz.parents)[3:4])]
    for path in (*built, *(root / name for root in roots for name in names)):
        if path.is_file() and _has_debug(path):
            return path
    return None


def _has_debug(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return False
        return ELFFile(file).get_section_by_name(".debug_info") is not None


def _link_address(vmlinux: Path) -> int:
    """Return where the text begins that a vmlinux was linked for: its first segment is that."""
    with vmlinux.open("rb") as file:
        return int(next(ELFFile(file).iter_segments("PT_LOAD"))["p_vaddr"])


def tell(kernel: KernelImage, symbols: Mapping[str, int], socket: Path) -> Iterator[str]:
    """Yield what somebody with a gdb has to know.

    Args:
        kernel: of the guest.
        symbols: of it, as far as they are known.
        socket: of the stub.
    """
    vmlinux = find_vmlinux(kernel)
    words = ["gdb", "-ex", f"target remote {socket}"]
    if vmlinux is not None:
        base = _link_address(vmlinux)
        # Only what decompresses itself moves itself; an ELF that is entered by PVH stays
        unmoved = base if kernel.boot != kernel.vmlinuz else None
        text = symbols.get("_text", unmoved)
        if text is None:
            yield "gdb: where KASLR has put the kernel is not known: the guest does not tell"
        offset = (text or base) - base
        load = f"symbol-file -o {offset:#x} {vmlinux}" if offset else f"symbol-file {vmlinux}"
        words[1:1] = ["-ex", load]
    yield f"gdb: {shlex.join(words)}"
    yield "     each CPU is a thread: info threads; thread 2; backtrace"
    if vmlinux is None:
        yield from _remedy(kernel)
    if text := symbols.get("_text"):
        yield f"     _text is at {text:#x}, {text - TEXT:#x} from where it is without KASLR"
    for name in SHOWN:
        if address := symbols.get(name):
            yield f"     hbreak *{address:#x}  {name}"


def _remedy(kernel: KernelImage) -> Iterator[str]:
    """Yield how to come by a kernel's symbols."""
    if kernel.spec.startswith("debian:"):
        package = f"linux-image-{kernel.release}-dbg={kernel.version}"
        apt = f"apt-get -c {cache_dir('apt') / 'apt.conf'}"
        yield f"     no debug symbols: {apt} download {package}"
        yield f"                       dpkg -x linux-image-*-dbg_*.deb {cache_dir('symbols')}"
    else:
        yield "     no debug symbols: build it with CONFIG_DEBUG_INFO, and keep the vmlinux"
