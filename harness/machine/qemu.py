"""Which QEMU to run, and how: the one named, the one fetched, or the one on PATH."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.deb import version_key
from harness.errors import ToolMissing
from harness.landing import sha256_of, write_atomically
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAM = "qemu-system-x86_64"
_DPKG_STATUS = Path("/var/lib/dpkg/status")


@dataclass(frozen=True)
class Qemu:
    """A QEMU that runs on this machine.

    Attributes:
        binary: the program.
        version: like (10, 0, 2).
        version_string: the first line of its `--version`.
        args: options that it always needs (where its firmware is).
        env: environment variables to add (where its libraries are).
        sha256: of the binary, in hexadecimal.
        origin: "CPUMAP_LAB_QEMU", "cache" or "path".
    """

    binary: Path
    version: tuple[int, int, int]
    version_string: str
    args: tuple[str, ...]
    env: Mapping[str, str] = field(hash=False)
    sha256: str
    origin: str


def find_qemu() -> Qemu:
    """Return `$CPUMAP_LAB_QEMU` if set, else the newest fetched QEMU that runs, else PATH's.

    Raises:
        ToolMissing: there is none, or the one that `$CPUMAP_LAB_QEMU` names does not run.
    """
    named = os.environ.get("CPUMAP_LAB_QEMU")
    if named:
        binary = shutil.which(named)
        if binary is None:
            raise ToolMissing(
                f"CPUMAP_LAB_QEMU names no program: {named}",
                remedy=f"set it to a {PROGRAM}, or unset it",
            )
        return _probed(Path(binary), (), {}, "CPUMAP_LAB_QEMU")
    tried = []
    for root in fetched():
        try:
            return unpacked_qemu(root)
        except ToolMissing as error:
            tried.append(error.message)
    on_path = shutil.which(PROGRAM)
    if on_path:
        try:
            return _probed(Path(on_path), (), {}, "path")
        except ToolMissing as error:
            tried.append(error.message)
    raise ToolMissing(
        f"no {PROGRAM} that runs: " + ("; ".join(tried) or "none fetched, none on PATH"),
        remedy="run `cpumap-lab qemu fetch`",
    )


def fetched() -> list[Path]:
    """Return the directories of the fetched QEMUs, newest first."""
    roots = [path.parents[2] for path in cache_dir("qemu").glob(f"[!.]*/usr/bin/{PROGRAM}")]
    return sorted(roots, key=lambda root: version_key(root.name.replace("_", ":")), reverse=True)


def unpacked_qemu(root: Path) -> Qemu:
    """Return the QEMU unpacked below `root`.

    Raises:
        ToolMissing: it does not run.
    """
    args, env = surroundings(root)
    return _probed(root / "usr/bin" / PROGRAM, args, env, "cache")


def surroundings(root: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the options and the environment for a QEMU unpacked below `root`."""
    firmware = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
    args = tuple(word for part in firmware for word in ("-L", str(root / part)))
    libraries = sorted({str(path.parent) for path in (root / "usr/lib").glob("*/lib*.so*")})
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return args, {"LD_LIBRARY_PATH": ":".join([*libraries, *([inherited] if inherited else [])])}


def _probed(binary: Path, args: tuple[str, ...], env: Mapping[str, str], origin: str) -> Qemu:
    # Hashing 20 MB and starting QEMU cost 0.1 s; a file of the same time and size is the same
    # file, and it runs for as long as no package was removed from under it.
    facts = [str(binary), *_stamp(binary), *_stamp(_DPKG_STATUS), *env.values()]
    memo = cache_dir("qemu", "probed") / hashlib.sha256("\0".join(facts).encode()).hexdigest()
    try:
        known = json.loads(memo.read_text())
    except (FileNotFoundError, ValueError):
        known = {"version": ask(binary, "--version", env=env), "sha256": sha256_of(binary)}
        write_atomically(memo, json.dumps(known).encode())
    banner = known["version"].splitlines()[0] if known["version"] else ""
    match = re.match(r"QEMU emulator version (\d+)\.(\d+)\.(\d+)", banner)
    if match is None:
        raise ToolMissing(
            f"{binary} is no QEMU: it says {banner!r}", remedy="run `cpumap-lab qemu fetch`"
        )
    version = int(match[1]), int(match[2]), int(match[3])
    return Qemu(binary, version, banner, args, env, known["sha256"], origin)


def ask(binary: Path, *args: str, env: Mapping[str, str]) -> str:
    """Return what a program prints.

    Args:
        binary: the program.
        args: its arguments.
        env: additions to the environment.

    Raises:
        ToolMissing: it does not run, or fails, or is silent for 60 s.
    """
    try:
        done = subprocess.run(
            [binary, *args],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolMissing(
            f"{binary} does not run: {error}", remedy="run `cpumap-lab qemu fetch`"
        ) from error
    if done.returncode:
        raise ToolMissing(
            f"{binary} {' '.join(args)} failed with {done.returncode}: {done.stderr.strip()}",
            remedy="run `cpumap-lab qemu fetch`",
        )
    return done.stdout


def _stamp(path: Path) -> tuple[str, ...]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return ("", "")
    return str(status.st_mtime_ns), str(status.st_size)
