"""Programs and a QEMU that are not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.machine.qemu import Qemu

if TYPE_CHECKING:
    from harness.doctor.item import Check, Item

DEAD, ALIVE = 999_999_999, os.getpid()


def program(directory: Path, name: str, script: str = "exit 0") -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def one(check: Check) -> Item:
    (item,) = check()
    return item


def qemu(version: tuple[int, int, int] = (10, 0, 2), *, banner: str = "") -> Qemu:
    return Qemu(Path("/q"), version, banner, (), {}, "0" * 64, "cache")
