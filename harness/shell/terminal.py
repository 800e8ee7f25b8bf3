"""The person's own terminal, given to a program in the guest and taken back whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import tty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.shell.session import Session

LEAVE = b"\x1d"
"""Ctrl-]: telnet's, ptyprocess's and virsh's key for it; whatever the guest does, this is heard."""
READ_BYTES = 1024


def size() -> tuple[int, int]:
    """Return the rows and columns of the terminal; 24 by 80 if it does not tell."""
    try:
        columns, rows = os.get_terminal_size(sys.stdin.fileno())
    except OSError:
        columns, rows = 0, 0
    return (rows, columns) if rows and columns else (24, 80)


def kind() -> str:
    """Return what kind of terminal it is, as guests know it (terminfo(5)); "linux" if unknown."""
    return os.environ.get("TERM") or "linux"


def attend(session: Session) -> bool:
    """Pass what is typed to a session and back, until it is over.

    Returns:
        Whether it has ended by itself; it has not if the person left, or the terminal has gone.

    Raises:
        AgentLost: QEMU has gone.
    """
    keys = sys.stdin.fileno()
    with _raw(keys), _resizes() as resized:
        while not session.is_over:
            ready = session.step([resized, keys])  # a guest may take no input, and LEAVE is heard
            if resized in ready:
                os.read(resized, READ_BYTES)
                session.resize(size())
            if keys in ready:
                typed = _read(keys)
                before, leave, _ = typed.partition(LEAVE)
                if leave or not typed:
                    return False
                session.write(before)
    return True


def relay(session: Session) -> None:
    """Pass standard input to a session until both end, if it is no terminal.

    Raises:
        AgentLost: QEMU has gone.
        BrokenPipeError: nobody wants the output any more.
    """
    source = sys.stdin.fileno()
    while not session.is_over:
        if session.step([source] if session.takes_input else []):
            session.write(_read(source))


def _read(file: int) -> bytes:
    try:
        return os.read(file, READ_BYTES)
    except OSError:  # EIO: the terminal has gone
        return b""


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Have each key come as it is typed, and the terminal as it was when the block is left."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal, termios.TCSADRAIN)  # what has been typed already is not lost
        yield
    finally:
        with contextlib.suppress(termios.error):  # it has gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizes() -> Iterator[int]:
    """Give a file that can be read when the terminal has changed its size."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(_number: int, _frame: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writable, b"\0")

    before = signal.signal(signal.SIGWINCH, note)
    try:
        yield readable
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(readable)
        os.close(writable)
