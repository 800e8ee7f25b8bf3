"""The agent's own threads."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from harness.agent.syscalls import Buffer

if TYPE_CHECKING:
    from harness.agent.syscalls import Syscalls

AT_FDCWD, O_DIRECTORY = -100, 0o200000


def own_threads(calls: Syscalls) -> list[int]:
    """Return the thread ids of the agent (getdents64(2) of /proc/self/task)."""
    path = b"/proc/self/task\0"
    directory = calls.must("openat", AT_FDCWD, path, O_DIRECTORY, why="/proc/self/task").value
    entries = Buffer(4096, returned=True)
    size = calls.must("getdents64", directory, entries, len(entries.content)).value
    calls.must("close", directory)
    tids, at = [], 0
    while at < size:
        (length,) = struct.unpack_from("<H", entries.content, at + 16)
        name = entries.content[at + 19 : at + length].partition(b"\0")[0]
        if name.isdigit():
            tids.append(int(name))
        at += length
    return tids
