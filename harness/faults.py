"""Allocations of the guest's kernel that fail when they are told to.

For kernels with CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC and
CONFIG_FAULT_INJECTION_STACKTRACE_FILTER: only what a function of the kernel allocates, itself or
through others, is made to fail. Sources: Documentation/fault-injection/fault-injection.rst,
lib/fault-inject.c (should_fail_ex), mm/failslab.c.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from typing import TYPE_CHECKING, Self

from harness.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.agent.syscalls import Result
    from harness.guest import Guest

OPTIONS = ("FAILSLAB", "FAIL_PAGE_ALLOC", "FAULT_INJECTION_STACKTRACE_FILTER")
"""What the kernel must be built with; `cpumap-lab kernels build --debug failslab` is."""
DEBUGFS = "/sys/kernel/debug"
KINDS = ("failslab", "fail_page_alloc")
DEPTH = 32
"""Callers that are looked at; the most that there can be."""
LIMIT = 100
"""Allocations that one call can have, by far."""
SELF = "thread-self"
MIN_AGE_S = 5.5
POLL_S = 0.1


class Faults:
    """Makes allocations below one function of the kernel fail, while a `with` block runs.

    Args:
        guest: where.
        function: the kernel's function, as in /proc/kallsyms; its callees count, too.

    Raises:
        GuestError: the kernel has no such function, or cannot make anything fail.
    """

    def __init__(self, guest: Guest, function: str) -> None:
        self._guest = guest
        self._range = symbol_range(guest.read("/proc/kallsyms"), function)

    def __enter__(self) -> Self:
        for kind in KINDS:
            home = f"{DEBUGFS}/{kind}"
            self._guest.write(f"{home}/ignore-gfp-wait", "N")
            self._guest.write(f"{home}/stacktrace-depth", str(DEPTH))
            self._guest.write(f"{home}/verbose", "1")  # a line on each, not a stack
            self._guest.write(f"{home}/require-start", hex(self._range[0]))
            self._guest.write(f"{home}/require-end", hex(self._range[1]))
        self._guest.write(f"{DEBUGFS}/fail_page_alloc/min-order", "0")
        return self

    def __exit__(self, *_: object) -> None:
        for kind in KINDS:
            home = f"{DEBUGFS}/{kind}"
            self._guest.write(f"{home}/probability", "0")
            self._guest.write(f"{home}/require-start", "0")
            self._guest.write(f"{home}/require-end", hex(2**64 - 1))

    def each(self, call: Callable[[], Result], task: str = SELF) -> Iterator[Result]:
        """Make a call again and again: each time another allocation fails, the first one first.

        It ends when no allocation is left to fail; that call, which is whole, is not among those
        given.

        Args:
            call: a system call of the agent's.
            task: the task whose allocations fail, as /proc names it.
        """
        for number in itertools.count(1):
            self._guest.write(f"/proc/{task}/fail-nth", str(number))
            result = call()
            left = int(self._guest.read(f"/proc/{task}/fail-nth"))
            if left or number > LIMIT:
                self._guest.write(f"/proc/{task}/fail-nth", "0")
                return
            yield result

    @contextlib.contextmanager
    def all(self, *, cache: str = "", after: int = 0) -> Iterator[None]:
        """Have every allocation of slabs fail while a `with` block runs.

        Args:
            cache: only of this cache, as /sys/kernel/slab names it.
            after: bytes that are still to be had.
        """
        home = f"{DEBUGFS}/failslab"
        if cache:
            self._guest.write(f"/sys/kernel/slab/{cache}/failslab", "1")
        self._guest.write(f"{home}/cache-filter", "Y" if cache else "N")
        self._guest.write(f"{home}/times", "-1")
        self._guest.write(f"{home}/space", str(after))
        self._guest.write(f"{home}/probability", "100")
        try:
            yield
        finally:
            self._guest.write(f"{home}/probability", "0")
            self._guest.write(f"{home}/cache-filter", "N")


def symbol_range(kallsyms: str, function: str) -> tuple[int, int]:
    """Return the addresses at which a function begins and the next one does.

    Raises:
        GuestError: the kernel has no such function (it was inlined, say).
    """
    found = re.findall(r"^([0-9a-f]+) [tT] (\S+)", kallsyms, re.MULTILINE)
    places = sorted((int(address, 16), name) for address, name in found)
    start = next((place for place, name in places if name == function), None)
    if start is None:
        raise GuestError(f"the kernel has no function {function} of its own", errno=2)
    return start, next((place for place, _ in places if place > start), start + 1)


def find_leaks(guest: Guest) -> str:
    """Return what kmemleak finds that nothing points to any more (CONFIG_DEBUG_KMEMLEAK).

    An object must be five seconds old (mm/kmemleak.c, MSECS_MIN_AGE), so that is waited for; and
    only the second scan reports it, which finds it unchanged since the first (update_checksum).
    """

    def uptime() -> float:
        return float(guest.read("/proc/uptime").split()[0])

    old_enough = uptime() + MIN_AGE_S
    while uptime() < old_enough:
        time.sleep(POLL_S)
    for _ in range(2):
        guest.write(f"{DEBUGFS}/kmemleak", "scan")
    return guest.read(f"{DEBUGFS}/kmemleak")
