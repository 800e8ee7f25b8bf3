"""Which module files a kernel needs, in load order.

modules.dep is made when a kernel is installed and is in no package; each module says itself what it
depends on, and only those that are needed are opened.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from libarchive.exception import ArchiveError

from harness.errors import KernelNotFound
from harness.kernels.bzimage import decompress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from harness.kernels.image import KernelImage

_MODULE = re.compile(r"(.+)\.ko(\.xz|\.zst|\.gz)?")


@dataclass(frozen=True)
class ModulePlan:
    """What to load for a list of modules.

    Attributes:
        files: the module files, each after those that it depends on.
        builtin: the names asked for that are part of the kernel itself.
        missing: the names asked for, or depended on, that the kernel does not have.
    """

    files: tuple[Path, ...]
    builtin: tuple[str, ...]
    missing: tuple[str, ...]


def plan_modules(kernel: KernelImage, names: Sequence[str]) -> ModulePlan:
    """Return the files to load for the modules named, dependencies first.

    Names are compared as the kernel does: "-" and "_" are the same.

    Raises:
        KernelNotFound: a module file is damaged, or built for another kernel.
    """
    if kernel.modules is None:
        return ModulePlan((), (), tuple(dict.fromkeys(names)))
    index = {module_name(path): path for path in _files(kernel.modules)}
    inside = _builtin(kernel.modules)
    files: dict[str, Path] = {}
    builtin: dict[str, None] = {}
    missing: dict[str, None] = {}

    def visit(name: str) -> None:
        key = name.replace("-", "_")
        if key in files:
            return
        if key not in index:
            (builtin if key in inside else missing)[name] = None
            return
        for dependency in _depends(index[key], kernel.release):
            visit(dependency)
        files[key] = index[key]

    for name in names:
        visit(name)
    return ModulePlan(tuple(files.values()), tuple(builtin), tuple(missing))


def module_name(path: Path) -> str:
    """Return a module's name as the kernel knows it ("virtio_net"), from its file name."""
    match = _MODULE.fullmatch(path.name)
    return (match[1] if match else path.name).replace("-", "_")


def read_module(path: Path) -> bytes:
    """Return a module's ELF file, unpacked if it is .xz, .zst or .gz.

    Raises:
        KernelNotFound: it cannot be read or unpacked.
    """
    try:
        data = path.read_bytes()
        return data if path.suffix == ".ko" else decompress(data)
    except (OSError, ArchiveError) as error:
        raise _damaged(path, str(error)) from error


def _files(directory: Path) -> Iterator[Path]:
    if (directory / "include/config/kernel.release").exists():  # a build, among its sources
        order = directory / "modules.order"  # up to 6.1 it names modules, then their objects
        for line in order.read_text().split() if order.exists() else ():
            path = directory / Path(line.removeprefix("kernel/")).with_suffix(".ko")
            if path.exists():
                yield path
        return
    for parent, _, names in os.walk(directory):
        for name in names:
            if _MODULE.fullmatch(name):
                yield Path(parent, name)


def _builtin(directory: Path) -> set[str]:
    try:
        lines = (directory / "modules.builtin").read_text().splitlines()
    except FileNotFoundError:
        return set()
    return {module_name(Path(line)) for line in lines}


def _depends(path: Path, release: str) -> list[str]:
    try:
        section = ELFFile(io.BytesIO(read_module(path))).get_section_by_name(".modinfo")
    except ELFError as error:
        raise _damaged(path, str(error)) from error
    if section is None:
        raise _damaged(path, "it has no .modinfo section")
    info = dict(
        entry.split("=", 1)
        for entry in section.data().decode(errors="replace").split("\0")
        if entry.startswith(("depends=", "vermagic="))
    )
    built_for, *features = info.get("vermagic", release).split()
    # With versioned symbols the kernel does not compare the release.
    if built_for != release and "modversions" not in features:
        raise KernelNotFound(
            f"the module {path} was built for {built_for}, the kernel is {release}",
            remedy="give the modules of this very kernel, or build and install them again",
        )
    return [name for name in info.get("depends", "").split(",") if name]


def _damaged(path: Path, why: str) -> KernelNotFound:
    return KernelNotFound(
        f"{path} is no kernel module: {why}",
        remedy="build it again; for a Debian kernel, `cpumap-lab kernels prune SPEC` and fetch",
    )
