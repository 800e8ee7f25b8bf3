"""What a user's own BPF object file must hold, checked before a guest is booted."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

if TYPE_CHECKING:
    from pathlib import Path

CPUS = "cpus"
STEER_MAPS = (CPUS, "hops", "orders", "strays", "verdict_counts")
"""The maps of guest/bpf/tag.h and guest/bpf/steer.h: the run's cpumap, and its notes."""
KINDS = ("STT_FUNC", "STT_OBJECT")
STEERER = "steer"
MAX_BYTES = 16 << 20


def find_fault(path: Path, *, steers: bool, redirects: bool = False) -> str | None:
    """Say what keeps an object file from being used, or None.

    Args:
        path: the file.
        steers: it is to steer frames; else its program goes into an entry.
        redirects: the entry's program redirects to CPUs.
    """
    if fault := find_file_fault(path):
        return fault
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        return f"cannot read {path}: {why}"
    try:
        elf = ELFFile(io.BytesIO(content))
        is_bpf = elf["e_machine"] == "EM_BPF"
        symbols = elf.get_section_by_name(".symtab") if is_bpf else None
        if not isinstance(symbols, SymbolTableSection):
            return f"{path} is no BPF object file: compile it with `clang -target bpf -g`"
        found = [
            (each.name, elf.get_section(each["st_shndx"]).name)
            for each in symbols.iter_symbols()
            if isinstance(each["st_shndx"], int) and each["st_info"]["type"] in KINDS
        ]
    except (ELFError, KeyError, UnicodeDecodeError, ValueError, TypeError, AttributeError) as error:
        return f"{path} is no BPF object file ({error or type(error).__name__})"
    return _judge(found, steers=steers, redirects=redirects)


def find_file_fault(path: Path) -> str | None:
    """Say why there is no such file, or None; what is no plain file may never end."""
    try:
        return None if path.is_file() else f"there is no file {path}"
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        return f"cannot read {path}: {why}"


def _judge(symbols: list[tuple[str, str]], *, steers: bool, redirects: bool) -> str | None:
    maps = {name for name, section in symbols if section == ".maps"}
    programs = [name for name, section in symbols if _is_program(section, steers=steers)]
    if steers:
        if lacking := [name for name in STEER_MAPS if name not in maps]:
            return (
                f"it has no map {', '.join(lacking)}: a program that steers includes "
                "guest/bpf/steer.h, that of this version of the lab (see the README)"
            )
        if len(programs) != 1 and STEERER not in programs:
            return f'it has {_list(programs)} in SEC("xdp"): one is needed, or one called steer'
    elif redirects and CPUS not in maps:
        return f"it has no map {CPUS}: the one that its program redirects into"
    elif len(programs) != 1:
        return f'it has {_list(programs)} in SEC("xdp/cpumap"): exactly one is needed'
    return None


def _is_program(section: str, *, steers: bool) -> bool:
    if steers:
        return section in ("xdp", "xdp.frags")
    return section in ("xdp/cpumap", "xdp_cpumap/", "xdp.frags/cpumap")


def _list(programs: list[str]) -> str:
    return f"{len(programs)} programs ({', '.join(programs)})" if programs else "no program"
