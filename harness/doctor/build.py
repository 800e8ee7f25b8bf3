"""What the guest's side is built of, and whether it is built."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from harness.doctor.item import PROBE_S, Item, State
from harness.paths import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = REPO / "guest"
BUILT = REPO / "build" / "guest"
TOOLS = {"gcc": "gcc", "make": "make", "clang": "clang"}
LIBRARIES = {
    "libbpf.a": "libbpf-dev",
    "libelf.a": "libelf-dev",
    "libz.a": "zlib1g-dev",
    "libmsgpackc.a": "libmsgpack-dev",
}
"""Linked into the agent statically; each with its Debian package."""


def check_guest() -> Iterator[Item]:
    """Compare each built part of the guest with its sources, as guest/Makefile does."""
    absent, stale = [], []
    for target, sources in parts().items():
        path = BUILT / target
        if not path.is_file():
            absent.append(target)
        elif any(source.stat().st_mtime > path.stat().st_mtime for source in sources):
            stale.append(target)
    if absent:
        seen = f"not built: {', '.join(absent)}"
        yield Item("guest programs", State.MISSING, seen, "run `ci/setup` (or `make -C guest`)")
    elif stale:
        seen = f"older than their sources: {', '.join(stale)}"
        yield Item("guest programs", State.WARN, seen, "run `make -C guest`")
    else:
        names = ", ".join(sorted(parts()))
        yield Item("guest programs", State.OK, f"built, and newer than their sources: {names}")


def parts() -> dict[str, list[Path]]:
    """Return what guest/Makefile builds, and of what."""
    common = [SOURCES / "frame.h", SOURCES / "Makefile"]
    agent = [*SOURCES.glob("agent/*.[ch]"), *common]
    canary = [*SOURCES.glob("canary/*.S"), SOURCES / "Makefile"]
    headers = [*SOURCES.glob("bpf/*.h"), *common]
    objects = {
        path.name.removesuffix(".c") + ".o": [path, *headers]
        for path in SOURCES.glob("bpf/*.bpf.c")
    }
    return {"agent": agent, "canary": canary, **objects}


def check_toolchain() -> Iterator[Item]:
    """Look for what builds the guest's programs; once they are built it is not needed."""
    built = all((BUILT / target).is_file() for target in parts())
    lack = State.WARN if built else State.MISSING
    needless = "; what is built needs no building" if built else ""
    for tool, package in TOOLS.items():
        found = shutil.which(tool)
        if found:
            yield Item(tool, State.OK, found)
        else:
            yield Item(tool, lack, f"none{needless}", f"install {package}")
    for library, package in LIBRARIES.items():
        place = find_library(library)
        if place:
            yield Item(library, State.OK, str(place))
        else:
            yield Item(library, lack, f"gcc finds none{needless}", f"install {package}")


def find_library(name: str) -> Path | None:
    """Return where the compiler finds a static library; None if it does not."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    try:
        done = subprocess.run(
            [compiler, f"-print-file-name={name}"],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    path = Path(done.stdout.strip())  # the bare name when there is none
    return path.resolve() if path.is_absolute() and path.exists() else None


def check_libarchive() -> Iterator[Item]:
    """Load libarchive, which unpacks packages and packs the initramfs."""
    try:
        import libarchive  # noqa: PLC0415

        version = libarchive.ffi.version_number()
    except (ImportError, OSError, AttributeError, TypeError) as error:
        seen = f"cannot be loaded: {error}"
        yield Item("libarchive", State.MISSING, seen, "install libarchive13 (or libarchive13t64)")
        return
    numbers = (version // 1_000_000, version // 1000 % 1000, version % 1000)
    yield Item("libarchive", State.OK, ".".join(map(str, numbers)))
