"""A program in the guest with its input and output on the host, over the link to the agent.

It needs nothing but the agent's system calls, each in a thread of its own, and so works in a guest
that was frozen before anybody thought of it: no device has to be there for it.
"""

from __future__ import annotations

import errno
import os
import shlex
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.agent.syscalls import Buffer, Started, Syscalls
from harness.errors import AgentLost
from harness.toolbox import BUSYBOX, make_directories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.agent.link import Link

READ_BYTES = 4096
"""At once; as much as a pty gives (n_tty(4): drivers/tty/n_tty.c, N_TTY_BUF_SIZE)."""
WRITE_BYTES = 4096
"""At once."""
LAST_TASK = 31
"""Of the agent's threads; the lab itself takes the first ones."""
AT_FDCWD = -100
O_RDONLY, O_WRONLY, O_RDWR, O_NOCTTY, O_CLOEXEC, O_PATH = 0, 1, 2, 0o400, 0o2000000, 0o10000000
S_IFIFO = 0o010000
# include/uapi/asm-generic/ioctls.h
TIOCSWINSZ, TIOCGPTN, TIOCSPTLCK = 0x5414, 0x80045430, 0x40045431


@dataclass(slots=True)
class Reader:
    """What comes out of the guest.

    Attributes:
        calls: where it is read.
        fd: what is read, in the guest.
        to: what it is written to, on the host.
        started: the read under way; None at its end.
    """

    calls: Syscalls
    fd: int
    to: int
    started: Started | None = None

    def begin(self) -> None:
        """Read on."""
        buffer = Buffer(READ_BYTES, returned=True)
        self.started = self.calls.start("read", self.fd, buffer, READ_BYTES)

    def step(self) -> None:
        """Hand on what has come, if anything has; at its end (0, or a pty's EIO) there is none."""
        if self.started is None or not self.calls.link.is_answered(self.started.ticket):
            return
        started, self.started = self.started, None
        size = self.calls.collect(started).value
        if size > 0:
            write_all(self.to, started.buffers[0].content[:size])
            self.begin()


class Session:
    """A program that runs in the guest.

    Args:
        link: to the guest's agent.
        shell: a POSIX shell in the guest.
        room: a directory in the guest, for what this session needs there.

    Attributes:
        pid: of the program.
    """

    def __init__(
        self, link: Link, shell: str = f"{BUSYBOX.target} sh", room: str = "/run/shell"
    ) -> None:
        self._shell = shell
        self._room = room
        self._calls = Syscalls(link)
        self._link = link
        self._writer = Syscalls(link, task=LAST_TASK)
        self._waiter = Syscalls(link, task=LAST_TASK - 1)
        self._readers: list[Reader] = []
        self._writing: Started | None = None
        self._unwritten = b""
        self._resizer = Syscalls(link, task=LAST_TASK - 4)
        self._resizing: Started | None = None
        self._size: tuple[int, int] | None = None
        self._input = -1
        self._at_end = False
        self.pid = -1

    def start_on_terminal(self, size: tuple[int, int], term: str, to: int = 1) -> None:
        """Start a login shell on a new terminal of the guest's.

        Args:
            size: rows and columns.
            term: what kind of terminal it is, as $TERM has it.
            to: what it prints to, on the host.

        Raises:
            GuestError: the kernel has no ptys.
        """
        self._mount_ptys()
        flags = O_RDWR | O_NOCTTY | O_CLOEXEC
        pty = self._calls.must("openat", AT_FDCWD, b"/dev/ptmx\0", flags, why="/dev/ptmx").value
        self._calls.must("ioctl", pty, TIOCSPTLCK, Buffer(bytes(4)))
        number = Buffer(4, returned=True)
        self._calls.must("ioctl", pty, TIOCGPTN, number)
        self._input = pty
        self._calls.must("ioctl", pty, TIOCSWINSZ, Buffer(_winsize(size)))
        name = f"/dev/pts/{int.from_bytes(number.content, 'little')}"
        # a session leader without a terminal gets the one that it opens first (tty_ioctl(4))
        inner = f"exec {self._shell} -l <{name} >{name} 2>&1"
        outer = f"export TERM={shlex.quote(term)}; exec setsid {self._shell} -c '{inner}'"
        self._spawn(outer)
        self._read(LAST_TASK - 2, pty, to)

    def start_command(self, command: str) -> None:
        """Start a command line, with its input, output and errors on those of the host.

        Raises:
            GuestError: the guest has no room.
        """
        make_directories(self._calls, [self._room])
        names = [f"{self._room}/{part}" for part in range(3)]
        for name in names:
            self._calls.raw("unlink", f"{name}\0".encode())
            self._calls.must("mknod", f"{name}\0".encode(), S_IFIFO | 0o600, 0, why=name)
        redirect = f"exec <{names[0]} >{names[1]} 2>{names[2]}"
        self._spawn(f"{redirect}; . /etc/profile; {command}")
        # each end opens when the other one is there, in the shell's order
        opened = []
        for name, flags in zip(names, (O_WRONLY, O_RDONLY, O_RDONLY), strict=True):
            how = flags | O_CLOEXEC
            path = f"{name}\0".encode()
            opened.append(self._writer.must("openat", AT_FDCWD, path, how, why=name).value)
        self._input = opened[0]
        self._read(LAST_TASK - 2, opened[1], 1)
        self._read(LAST_TASK - 3, opened[2], 2)

    def resize(self, size: tuple[int, int]) -> None:
        """Tell the program that its terminal has so many rows and columns now."""
        self._size = size
        self._resize_on()

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come from it."""
        return all(reader.started is None for reader in self._readers)

    @property
    def takes_input(self) -> bool:
        """Whether it has taken all that `write` was given."""
        return self._writing is None and not self._at_end

    def write(self, data: bytes) -> None:
        """Give it input; none (b"") is the end of it."""
        if data:
            self._unwritten += data
            self._write_on()
        else:
            self._at_end = True
            self._calls.must("close", self._input)

    def step(self, files: Sequence[int] = ()) -> list[int]:
        """Wait a while for output, for input to be taken or for files of the host's.

        Returns:
            Those of the files that can be read.

        Raises:
            AgentLost: QEMU has gone.
            BrokenPipeError: nobody wants the output any more.
        """
        started = [self._writing, self._resizing, *(reader.started for reader in self._readers)]
        found = self._link.watch([each.ticket for each in started if each], files)
        if self._writing and self._link.is_answered(self._writing.ticket):
            written, self._writing = self._writer.collect(self._writing), None
            if written.errno:  # nobody reads it any more
                self._at_end = True
            self._unwritten = self._unwritten[max(written.value, 0) :]
            self._write_on()
        if self._resizing and self._link.is_answered(self._resizing.ticket):
            self._resizer.collect(self._resizing)
            self._resizing = None
            self._resize_on()
        for reader in self._readers:
            reader.step()
        return found

    def wait(self) -> int:
        """Return the exit status of the program, which has ended, as shells tell it."""
        status = Buffer(4, returned=True)
        waiting = self._waiter.start("wait4", self.pid, status, 0, 0)
        while not self._link.is_answered(waiting.ticket):
            self._link.watch([waiting.ticket])
        self._waiter.collect(waiting).must("wait4")
        code = int.from_bytes(status.content, "little")
        return os.waitstatus_to_exitcode(code) if not code & 0x7F else 128 + (code & 0x7F)

    def _mount_ptys(self) -> None:
        there = self._calls.raw("openat", AT_FDCWD, b"/dev/pts/ptmx\0", O_PATH | O_CLOEXEC)
        if there.errno != errno.ENOENT:
            self._calls.must("close", there.must("/dev/pts").value)
            return
        make_directories(self._calls, ["/dev/pts"])
        self._calls.must("mount", b"devpts\0", b"/dev/pts\0", b"devpts\0", 0, 0, why="/dev/pts")

    def _spawn(self, script: str) -> None:
        argv = [*self._shell.split(), "-c", script]
        self.pid = self._link.call("spawn", "exec", argv, -1, 0, 0)

    def _read(self, task: int, fd: int, to: int) -> None:
        reader = Reader(Syscalls(self._link, task=task), fd, to)
        reader.begin()
        self._readers.append(reader)

    def _write_on(self) -> None:
        """Pass on what it has not been given yet, when the part before has arrived."""
        if self._unwritten and self._writing is None and not self._at_end:
            data = self._unwritten[:WRITE_BYTES]
            self._writing = self._writer.start("write", self._input, data, len(data))

    def _resize_on(self) -> None:
        """Pass the newest size on, when the one before has arrived: the guest may be stopped."""
        if self._size and self._resizing is None:
            size = Buffer(_winsize(self._size))
            self._resizing = self._resizer.start("ioctl", self._input, TIOCSWINSZ, size)
            self._size = None


def _winsize(size: tuple[int, int]) -> bytes:
    """Return rows and columns as a struct winsize (ioctl_tty(2))."""
    return struct.pack("<HHHH", *(min(number, 0xFFFF) for number in size), 0, 0)


def write_all(to: int, data: bytes) -> None:
    """Write all of some bytes to a file of the host's."""
    view = memoryview(data)
    while view:
        view = view[os.write(to, view) :]


def find_silence(link: Link, deadline_s: float) -> str:
    """Return why a guest's agent does not serve; "" if it does."""
    try:
        link.call("read", "/proc/uptime", 64, deadline_s=deadline_s)
    except AgentLost as error:
        return error.message
    return ""
