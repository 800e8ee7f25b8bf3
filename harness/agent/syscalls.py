"""Any system call in the guest, with its memory marshalled (guest/agent/ops.c, op_syscall)."""

from __future__ import annotations

import errno as errnos
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.agent.link import Link, Ticket

# arch/x86/entry/syscalls/syscall_64.tbl
NR = {
    "read": 0,
    "write": 1,
    "close": 3,
    "lseek": 8,
    "mmap": 9,
    "ioctl": 16,
    "access": 21,
    "dup": 32,
    "dup2": 33,
    "socket": 41,
    "sendto": 44,
    "recvfrom": 45,
    "bind": 49,
    "setsockopt": 54,
    "wait4": 61,
    "kill": 62,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "unlink": 87,
    "symlink": 88,
    "readlink": 89,
    "chmod": 90,
    "syslog": 103,
    "capset": 126,
    "mknod": 133,
    "getpriority": 140,
    "setpriority": 141,
    "sched_setscheduler": 144,
    "sched_getscheduler": 145,
    "mount": 165,
    "umount2": 166,
    "sched_setaffinity": 203,
    "clock_getres": 229,
    "getdents64": 217,
    "clock_gettime": 228,
    "openat": 257,
    "unshare": 272,
    "prlimit64": 302,
    "sendmmsg": 307,
    "setns": 308,
    "bpf": 321,
    "membarrier": 324,
}


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory of a system call.

    Attributes:
        data: its bytes, or how many zero bytes; what the guest made of it once the call is done.
        returned: whether it is wanted back.
        pointers: addresses of other buffers to store in it, by offset.
        own: addresses in this very buffer to store in it: what is where, by offset.
    """

    data: bytes | int
    returned: bool = False
    pointers: Mapping[int, Buffer] = field(default_factory=dict)
    own: Mapping[int, int] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        """Its bytes."""
        return bytes(self.data)


@dataclass(frozen=True, slots=True)
class Result:
    """What a system call answered: its return value, and errno (0 if it succeeded)."""

    value: int
    errno: int

    def must(self, what: str) -> Result:
        """Return itself if the call succeeded.

        Raises:
            GuestError: it did not; `what` names it.
        """
        if self.errno:
            name = errnos.errorcode.get(self.errno, f"errno {self.errno}")
            raise GuestError(f"{what} failed in the guest: {name}", errno=self.errno)
        return self


@dataclass(frozen=True, slots=True)
class Started:
    """A system call under way, and the buffers that it will fill."""

    ticket: Ticket
    buffers: tuple[Buffer, ...]


class Syscalls:
    """System calls in the agent's process.

    Args:
        link: where they go.
        task: the agent's thread that makes them; 0 is its main loop, which must not block.
    """

    def __init__(self, link: Link, task: int = 0) -> None:
        self.link = link
        self.task = task

    def raw(self, name: str, *args: int | bytes | Buffer) -> Result:
        """Make a system call and return its answer, success or not.

        Raises:
            AgentLost: the guest did not answer.
        """
        return self.collect(self.start(name, *args))

    def start(self, name: str, *args: int | bytes | Buffer) -> Started:
        """Start a system call that may block; `collect` waits for it."""
        order: list[Buffer] = []

        def place(buffer: Buffer) -> int:
            if buffer not in order:
                order.append(buffer)
            return order.index(buffer)

        values: list[int | list[int]] = []
        for arg in args:
            if isinstance(arg, bytes):
                arg = Buffer(arg)  # noqa: PLW2901
            values.append(arg if isinstance(arg, int) else [place(arg)])
        pointers = []
        for buffer in order:  # grows while it is walked: buffers point to buffers
            pointers += [[place(buffer), at, place(to), 0] for at, to in buffer.pointers.items()]
            pointers += [[place(buffer), at, place(buffer), to] for at, to in buffer.own.items()]
        wanted = tuple(buffer for buffer in order if buffer.returned)
        memory = [buffer.data for buffer in order]
        back = [place(buffer) for buffer in wanted]
        request = ("syscall", NR[name], values, memory, pointers, back)
        return Started(self.link.send(*request, task=self.task), wanted)

    def collect(self, started: Started, *, deadline_s: float | None = None) -> Result:
        """Return the answer of a system call that was started, and fill its buffers.

        Raises:
            AgentLost: no answer within the deadline.
        """
        value, errno, contents = self.link.wait(started.ticket, deadline_s=deadline_s)
        for buffer, content in zip(started.buffers, contents, strict=True):
            buffer.data = content
        return Result(value, errno)

    def must(self, name: str, *args: int | bytes | Buffer, why: str = "") -> Result:
        """Make a system call that has to succeed.

        Raises:
            GuestError: it failed.
            AgentLost: the guest did not answer.
        """
        return self.raw(name, *args).must(f"{name} ({why})" if why else name)
