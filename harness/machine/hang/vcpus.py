"""The virtual CPUs' states and registers, through QEMU's monitor."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import QemuFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ask = Callable[..., Any]

STACK_BYTES = 2048
THREAD_SIZE, PAGE_SIZE = 1 << 14, 1 << 12
"""Of a task's kernel stack, and what it is aligned to (arch/x86/include/asm/page_64_types.h)."""


@dataclass(frozen=True, slots=True)
class Registers:
    """Where a virtual CPU was.

    Attributes:
        rip, rsp: its instruction and stack pointers.
        user: whether it ran a process's own code.
        halted: whether it slept, in HLT.
    """

    rip: int
    rsp: int
    user: bool
    halted: bool


def parse_registers(text: str) -> dict[int, Registers]:
    """Return what `info registers -a` says of each CPU (target/i386/cpu-dump.c)."""
    found = {}
    for part in re.split(r"^CPU#", text, flags=re.MULTILINE)[1:]:
        fields = dict(re.findall(r"\b(RIP|RSP|CPL|HLT)=([0-9a-f]+)", part))
        if len(fields) == 4:
            rip, rsp = int(fields["RIP"], 16), int(fields["RSP"], 16)
            found[int(part.split()[0])] = Registers(
                rip, rsp, fields["CPL"] == "3", fields["HLT"] == "1"
            )
    return found


def read_registers(ask: Ask) -> dict[int, Registers]:
    """Return each CPU's registers; the guest has to be stopped, or TCG tells old ones."""
    return parse_registers(
        ask("human-monitor-command", {"command-line": "info registers -a"}).replace("\r", "")
    )


def read_threads(ask: Ask) -> dict[int, int]:
    """Return the host's thread that runs each CPU."""
    return {cpu["cpu-index"]: cpu["thread-id"] for cpu in ask("query-cpus-fast", {})}


def read_stack(ask: Ask, cpu: int, registers: Registers, scratch: Path) -> list[int]:
    """Return the words on top of a CPU's kernel stack.

    Raises:
        QemuFailed: its stack pointer points nowhere.
    """
    # up to the stack's end: behind it there is no memory. Stacks of interrupts are aligned to pages
    where = {"val": registers.rsp, "filename": str(scratch), "cpu-index": cpu}
    try:
        ask("memsave", {**where, "size": _size(registers.rsp, THREAD_SIZE)})
    except QemuFailed:
        ask("memsave", {**where, "size": _size(registers.rsp, PAGE_SIZE)})
    return [word for (word,) in struct.iter_unpack("<Q", scratch.read_bytes())]


def _size(top: int, alignment: int) -> int:
    return min(STACK_BYTES, alignment - top % alignment) & ~7
