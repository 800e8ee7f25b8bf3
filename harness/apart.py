"""Work in a process of its own, told and answered in JSON.

pytest keeps modules, and what they remember of a kernel: cases on one kernel after the other, all
at the same place, need a new process each.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.machine.process import leashed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

PARTING_S = 120.0
"""For a process that was told to end, and has guests to end."""


def ask_apart(
    module: str, request: dict[str, Any], said: BinaryIO, *, timeout_s: float | None = None
) -> Any:
    """Return what a module answers; None if it ended without an answer.

    It does not outlive this process, and is told to end when this one no longer waits for it.

    Args:
        module: run as `python -m`; calls `answer_apart`.
        request: what it is asked.
        said: takes its output.
        timeout_s: for all of it, in seconds; None: no end.

    Raises:
        subprocess.TimeoutExpired: it did not end.
        ToolMissing: see `leashed`.
    """
    with tempfile.TemporaryDirectory() as room:
        out = Path(room, "answer.json")
        command = [sys.executable, "-m", module, str(out), json.dumps(request)]
        child = subprocess.Popen(
            leashed(command, os.getpid()),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            child.wait(timeout_s)
        finally:
            if child.poll() is None:
                _end(child)
        return json.loads(out.read_text()) if out.exists() else None


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(PARTING_S)
    finally:
        child.kill()
        child.wait()


def answer_apart(answer: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Answer the request of the process that asked; None leaves it without an answer."""
    out, request = sys.argv[1:]
    # To be told to end is to be interrupted: guests end with what began them
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    told = answer(json.loads(request))
    if told is not None:
        Path(out).write_text(json.dumps(told))
