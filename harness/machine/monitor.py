"""QEMU's monitor (QMP): one command at a time, each with a deadline.

By hand: the library for it (qemu.qmp) waits for ever for a greeting, and answers with an
AssertionError of its own when QEMU hangs up while it connects.
Source: docs/interop/qmp-spec.rst of QEMU.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from harness.errors import QemuFailed, QemuSilent

if TYPE_CHECKING:
    import socket

READ_BYTES = 1 << 16


class Monitor:
    """The harness's end of a QEMU's monitor.

    Args:
        sock: connected to it; owned by the monitor from here on.
        deadline_s: for each command, and for the greeting before the first one.
    """

    def __init__(self, sock: socket.socket, *, deadline_s: float) -> None:
        self._sock = sock
        self._deadline_s = deadline_s
        self._greeted = False
        self._commands = 0
        self._input = b""

    def command(self, name: str, arguments: dict[str, Any], deadline_s: float | None = None) -> Any:
        """Run a command and return its result.

        Args:
            name: of the command.
            arguments: its arguments.
            deadline_s: what it may take, if not as long as any other.

        Raises:
            QemuSilent: QEMU does not answer.
            QemuFailed: QEMU refused the command or has gone.
        """
        limit = self._deadline_s if deadline_s is None else deadline_s
        deadline = time.monotonic() + limit
        try:
            if not self._greeted:
                self._expect("QMP", deadline)
                self._run("qmp_capabilities", {}, deadline)
                self._greeted = True
            return self._run(name, arguments, deadline)
        except TimeoutError as error:
            raise QemuSilent(f"QEMU did not answer {name} within {limit:.0f} s") from error
        except OSError as error:
            raise QemuFailed(f"QEMU hung up on {name}: {error}") from error

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _run(self, name: str, arguments: dict[str, Any], deadline: float) -> Any:
        self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
        self._commands += 1  # an answer that comes too late is none to the next command
        command = {"execute": name, "arguments": arguments, "id": self._commands}
        self._sock.sendall(json.dumps(command).encode() + b"\n")
        answer = self._expect("return", deadline)
        if "error" in answer:
            raise QemuFailed(f"QEMU refused {name}: {answer['error']['desc']}")
        return answer["return"]

    def _expect(self, key: str, deadline: float) -> dict[str, Any]:
        """Return the next message with this key, or an error; events are passed over."""
        while True:
            line, end, rest = self._input.partition(b"\n")
            if end:
                self._input = rest
                message: dict[str, Any] = json.loads(line)
                if (key in message or "error" in message) and message.get(
                    "id", self._commands
                ) == self._commands:
                    return message
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._sock.settimeout(left)
            data = self._sock.recv(READ_BYTES)
            if not data:
                raise ConnectionResetError("end of the stream")
            self._input += data
