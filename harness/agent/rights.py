"""What a thread of the agent's may do: capabilities and limits."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.agent.syscalls import Syscalls

CAP_SYS_ADMIN, CAP_BPF, CAP_LAST = 21, 39, 40
"""include/uapi/linux/capability.h; there is none above CAP_CHECKPOINT_RESTORE."""
LINUX_CAPABILITY_VERSION_3 = 0x20080522
RLIMIT_NOFILE, RLIMIT_MEMLOCK = 7, 8


def drop_capabilities(calls: Syscalls, *dropped: int) -> None:
    """Take effective capabilities from one thread of the agent's, for good (capset(2)).

    Raises:
        GuestError: the thread has not all the others.
    """
    every = (1 << CAP_LAST + 1) - 1
    effective = every & ~sum(1 << capability for capability in dropped)
    sets = struct.pack("<6I", *(word >> shift & 0xFFFFFFFF for shift in (0, 32)
                               for word in (effective, every, 0)))  # fmt: skip
    calls.must("capset", struct.pack("<Ii", LINUX_CAPABILITY_VERSION_3, 0), sets)


def limit_locked_memory(calls: Syscalls, size: int) -> None:
    """Set RLIMIT_MEMLOCK of the whole agent.

    Raises:
        GuestError: the kernel refuses it.
    """
    calls.must("prlimit64", 0, RLIMIT_MEMLOCK, struct.pack("<QQ", size, (1 << 64) - 1), 0)


def limit_open_files(calls: Syscalls, number: int) -> None:
    """Set RLIMIT_NOFILE of the whole agent.

    Raises:
        GuestError: the kernel refuses it.
    """
    calls.must("prlimit64", 0, RLIMIT_NOFILE, struct.pack("<QQ", number, number), 0)
