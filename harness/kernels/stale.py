"""Whether a kernel is older than what it was built from, as make would see it.

A build leaves beside each object what it was made from (.<object>.cmd, by scripts/basic/fixdep). A
source that is newer than the kernel counts if an object of the kernel names it, or an object of a
module that is older than it: so what is not built in this configuration, or was built since into a
module, raises no alarm. A changed Makefile is not seen.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SOURCE = re.compile(r"[^.].*\.(c|h|S|rs|lds|tbl)")
_ASIDE = {"Documentation", "LICENSES", "samples", "tools", "usr"}
"""Directories of a tree whose files change without the kernel being another."""


def overtaken(build: Path, image: Path) -> str:
    """Return what has changed since a kernel was built; "" if nothing has.

    Args:
        build: the directory that it was built in.
        image: its bzImage.
    """
    config, taken = build / ".config", build / "include/config/auto.conf"
    if config.is_file() and taken.is_file() and _mtime(config) > _mtime(taken):
        return f"{config} was changed"
    link = build / "source"  # `make O=` leaves it
    sources = link.resolve() if link.is_dir() else build
    newer = dict(_newer(sources, _mtime(image))) | dict(_touched(build, _mtime(image)))
    if not newer:
        return ""
    prefixes = tuple(f"{where}/" for where in (sources, os.path.relpath(sources, build)))
    for made, text in _objects(build):
        if not any(path in text for path in newer):  # most have none: splitting them takes long
            continue
        for name in text.replace("$(wildcard ", "").replace(")", " ").split():
            path = next((name[len(p) :] for p in prefixes if name.startswith(p)), name)
            changed = newer.get(path)
            if changed is not None and (made is None or changed > made):
                return f"{path} was changed"
    return ""


def _newer(sources: Path, than: float) -> Iterator[tuple[str, float]]:
    """Yield the sources changed after a time, by their path in the tree, and when."""
    for directory, below, names in os.walk(sources):
        where = os.path.relpath(directory, sources)
        if where == ".":
            below[:] = [name for name in below if name not in _ASIDE and name[0] != "."]
        elif where == "arch":
            below[:] = [name for name in below if name == "x86"]
        below[:] = [
            name
            for name in below
            if name != "generated" and not os.path.islink(f"{directory}/{name}/source")
        ]
        for name in names:
            if _SOURCE.fullmatch(name) and not name.endswith(".mod.c"):
                changed = os.stat(f"{directory}/{name}").st_mtime
                if changed > than:
                    yield os.path.normpath(f"{where}/{name}"), changed


def _touched(build: Path, than: float) -> Iterator[tuple[str, float]]:
    """Yield the options of the configuration that changed after a time, as objects name them."""
    for entry in os.scandir(build / "include/config"):
        if entry.name[0].isupper() and entry.stat().st_mtime > than:
            yield f"include/config/{entry.name}", entry.stat().st_mtime


def _objects(build: Path) -> Iterator[tuple[float | None, str]]:
    """Yield for each object the time of its making, None if it is the kernel's, and its .cmd."""
    for directory, below, names in os.walk(build):
        if directory == str(build):
            below[:] = [name for name in below if name not in _ASIDE and name[0] != "."]
        for name in names:
            if name.endswith(".o.cmd"):
                with open(f"{directory}/{name}", errors="replace") as file:
                    text = file.read()
                made = f"{directory}/{name.removeprefix('.').removesuffix('.cmd')}"
                when = None
                if " -DMODULE " in text:  # one that did not compile is taken away
                    when = os.stat(made).st_mtime if os.path.exists(made) else 0.0
                yield when, text


def _mtime(path: Path) -> float:
    return path.stat().st_mtime
