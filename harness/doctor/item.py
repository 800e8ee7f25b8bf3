"""What the doctor looks at, and what it finds."""

from __future__ import annotations

import enum
import os
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.errors import LabError

PROBE_S = 10.0


class State(enum.StrEnum):
    """How an item is."""

    OK = "ok"
    WARN = "warn"
    """Something works worse without it, or only some things work."""
    MISSING = "missing"
    """Nothing runs without it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        state: how it is.
        seen: what was found, and what that costs.
        remedy: what to do about it; "" when there is nothing to do.
    """

    name: str
    state: State
    seen: str
    remedy: str = ""


Check = Callable[[], Iterable[Item]]


def examine(name: str, check: Check) -> list[Item]:
    """Run a check; whatever goes wrong in it is a finding, too.

    Args:
        name: of the item, should the check fail.
        check: gives items.
    """
    try:
        return list(check())
    except LabError as error:
        return [Item(name, State.MISSING, error.message, error.remedy)]
    except Exception as error:  # a doctor who faints helps nobody
        seen = f"cannot be examined: {type(error).__name__}: {error}"
        return [Item(name, State.MISSING, seen, "see the other items first; else it is a defect")]


def succeeds(*argv: str) -> tuple[bool, str]:
    """Run a program in bounded time; return whether it succeeded, and the last line it said."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            text=True,
            timeout=PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no end within {PROBE_S:.0f} s"
    except OSError as error:
        return False, str(error.strerror)
    lines = done.stdout.strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit status {done.returncode}"
