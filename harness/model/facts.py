"""What the model has to know of a guest before it can answer for it."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

ENOTSUPP = 524
"""The kernel's own errno (include/linux/errno.h), which user space has no name for."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A kernel and its machine.

    Attributes:
        kernel: version numbers, (6, 12, 43).
        nr_cpus: CONFIG_NR_CPUS.
        possible: CPUs that may ever be there (cpu_possible_mask).
        online: CPUs that are there.
        nodes: NUMA nodes that are online.
        map_bytes: sizeof(struct bpf_cpu_map); it varies with the config.
        cache_line: SMP_CACHE_BYTES, which sets how lazily a ptr_ring hands back its slots.
        page_bytes: PAGE_SIZE.
        unprivileged_bpf_disabled: the sysctl of that name is not 0.
    """

    kernel: tuple[int, ...]
    nr_cpus: int = 8192
    possible: frozenset[int] = frozenset(range(4))
    online: frozenset[int] = frozenset(range(4))
    nodes: frozenset[int] = field(default=frozenset({0}))
    map_bytes: int = 288
    cache_line: int = 64
    page_bytes: int = 4096
    unprivileged_bpf_disabled: bool = True


def parse_list(text: str) -> frozenset[int]:
    """Return the numbers of a kernel's list like "0-3,8" (lib/vsprintf.c, "%*pbl")."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def errno_name(number: int) -> str:
    """Return the name of an errno, "0" for success."""
    if number == 0:
        return "0"
    if number == ENOTSUPP:
        return "ENOTSUPP"
    return errno.errorcode.get(number, f"errno {number}")
