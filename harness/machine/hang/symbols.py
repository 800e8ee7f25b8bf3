"""Kernel addresses by name, from the kernel's own list (/proc/kallsyms): KASLR is in it."""

from __future__ import annotations

from bisect import bisect_right

LONGEST, LONGEST_OF_MODULES = 1 << 16, 1 << 12
"""Of functions: what lies further behind a symbol is none of the list, but a BPF program maybe."""
KERNEL_HALF = 1 << 63


class Symbols:
    """Functions of a running kernel and its modules.

    Args:
        kallsyms: the text of /proc/kallsyms, or "" if it could not be read.
    """

    def __init__(self, kallsyms: str) -> None:
        found = []
        for line in kallsyms.splitlines():
            address, kind, name = line.split(None, 2)
            if kind in "tTwW":
                found.append((int(address, 16), name.replace("\t", " ")))
        found.sort()
        self._starts = [start for start, _ in found]
        self._names = [name for _, name in found]

    def __bool__(self) -> bool:
        return bool(self._starts)

    def name(self, address: int) -> str:
        """Return a code address as `function+0x12`; in hexadecimal if it is in none."""
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return f"{address:#x}"
        name, offset = self._names[at], address - self._starts[at]
        longest = LONGEST_OF_MODULES if name.endswith("]") else LONGEST
        return f"{name}+{offset:#x}" if offset < longest else f"{address:#x}"

    def on_stack(self, words: list[int]) -> list[str]:
        """Return the words of a stack that may be return addresses, by name.

        Some may be left from calls that are over: like the lines with "?" of the kernel's own.
        """
        named = (self.name(word) for word in words if word >= KERNEL_HALF)
        return [name for name in named if "+" in name and not name.endswith("+0x0")]
