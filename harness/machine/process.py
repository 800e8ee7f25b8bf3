"""One QEMU process, which never outlives the harness."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from harness.errors import QemuFailed, ToolMissing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STOP_S = 10.0
LAST_LINES = 5
"""Of what it printed, that an error message tells."""


class Process:
    """A child that the kernel kills when the harness dies, even by SIGKILL.

    Args:
        argv: the command line.
        env: additions to the environment.
        pass_fds: descriptors that the child inherits.
        log: file for what it prints.

    Raises:
        ToolMissing: `setpriv` (util-linux) is not on this machine.
        QemuFailed: the program cannot be started.
    """

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], pass_fds: Sequence[int], log: Path
    ) -> None:
        self.argv = tuple(argv)
        self.log = log
        with log.open("wb") as output:
            try:
                self._child = subprocess.Popen(
                    leashed(argv, os.getpid()),
                    env={**os.environ, **env},
                    pass_fds=pass_fds,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,  # a Ctrl-C is for the harness, which then stops QEMU
                )
            except OSError as error:
                raise QemuFailed(f"cannot start {argv[0]}: {error}") from error

    @property
    def pid(self) -> int:
        """Process id on the host."""
        return self._child.pid

    def alive(self) -> bool:
        """Tell whether it still runs."""
        return self._child.poll() is None

    def wait(self, timeout_s: float) -> int | None:
        """Return its exit status, or None when it still runs after `timeout_s` seconds."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def output(self) -> str:
        """Return what it printed."""
        return self.log.read_text("utf-8", "replace").strip()

    def failure(self) -> str:
        """Describe how it ended, for an error message."""
        status = self._child.poll()
        if status is None:
            return "QEMU still runs"
        last = "\n".join(self.output().splitlines()[-LAST_LINES:])
        return f"QEMU ended with {how_ended(status)}: {last or 'it printed nothing'}"

    def kill(self) -> None:
        """End it now and collect it."""
        self._child.kill()
        self._child.wait(STOP_S)


def leashed(argv: Sequence[str], parent: int) -> list[str]:
    """Return a command line that runs another one, killed when its parent dies.

    (PR_SET_PDEATHSIG through setpriv, so that nothing runs between fork and exec in Python. The
    shell, which the program then replaces, sees to it that the parent had not died before.)

    Args:
        argv: the command line.
        parent: pid of the process that will start it.

    Raises:
        ToolMissing: `setpriv` (util-linux) is not on this machine.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ToolMissing("no setpriv on this machine", remedy="install util-linux")
    run = ["/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(parent), *argv]
    return [setpriv, "--pdeathsig", "KILL", "--", *run]


def how_ended(status: int) -> str:
    """Describe an exit status, like "status 1" or "signal SIGABRT"."""
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"signal {-status}"
