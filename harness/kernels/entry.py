"""A kernel's directory in the cache: how it is filled, and read again.

Each holds vmlinuz, vmlinux (if it has the PVH note), config, modules/<release>/ and meta.json.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import KernelNotFound
from harness.kernels.bzimage import BzImage, read_bzimage, write_elf
from harness.kernels.image import KernelImage, KernelPackage
from harness.kernels.vmlinux import has_pvh_entry
from harness.landing import land_directory, sweep
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from harness.archives import Place

_HOME = re.compile(r"(?:usr/)?lib/modules/([^/]+)/(.+)")
_BOOT = re.compile(r"boot/(vmlinuz|config)-(.+)")
_NEEDED = re.compile(r"modules\..+|(kernel|extra|updates)/.+")
"""What is kept of lib/modules/<release>: not the debug kernel, symbols and links to sources."""


def land(room: str, name: str, fill: Callable[[Path], None]) -> Path:
    """Return a kernel's directory, filled if it is not there yet; see `land_directory`.

    What killed processes left beside it is removed.

    Args:
        room: its place below `kernels/` in the cache; "" for the archive's.
        name: the directory's.
        fill: writes what is in it; see `gather` and `finish`.

    Raises:
        CacheError: the cache cannot be written.
    """
    home = cache_dir("kernels", room)
    if not (home / name).is_dir():
        sweep(home)
    return land_directory(home / name, fill)


class Parcel(NamedTuple):
    """A package file, and how to unpack it."""

    file: Path
    unpack: Callable[[Path, Path, Place], None]


def gather(part: Path, parcels: Iterable[Parcel]) -> BzImage:
    """Fill a directory with the one kernel that some packages hold, and its modules.

    Distributions lay their kernels out in two ways: /boot/vmlinuz-<release> and config-<release>
    (Debian to 6.18, older SUSE, bindeb-pkg), or both in lib/modules/<release> (Fedora, SUSE, Debian
    from 6.19, binrpm-pkg); the modules are in lib/modules/<release> or below usr, in the same
    package or in others.

    Raises:
        KernelNotFound: there is none, or several, or one for another machine; or the modules are
            of another one.
        FetchFailed: a package is damaged.
    """
    homes: dict[str, Path] = {}
    names = []
    for file, unpack in parcels:
        names.append(file.name)

        def place(member: str, file: Path = file) -> str | None:
            if match := _BOOT.fullmatch(member):
                return f"found/boot/{match[2]}/{match[1]}"
            match = _HOME.fullmatch(member)
            if match and match[2] in ("vmlinuz", "config"):
                return f"found/home/{match[1]}/{match[2]}"
            if match and _NEEDED.fullmatch(match[2]):
                if match[2].startswith(("kernel/", "extra/", "updates/")):
                    homes[match[1]] = file
                return f"modules/{match[1]}/{match[2]}"
            return None

        unpack(file, part, place)
    found = (path for path in part.glob("found/*/*/vmlinuz") if not path.is_symlink())
    kernels = {vmlinuz.parent.name: vmlinuz for vmlinuz in found}
    return _sort(part, kernels, homes, ", ".join(names))


def _sort(part: Path, kernels: dict[str, Path], homes: dict[str, Path], names: str) -> BzImage:
    if not kernels:
        lone = f"; they hold modules of {', '.join(homes)}" if homes else ""
        raise KernelNotFound(
            f"no kernel in {names}: neither /boot/vmlinuz-RELEASE nor "
            f"/lib/modules/RELEASE/vmlinuz{lone}",
            remedy="add the package that has it: linux-binary-… or linux-image-… (.deb), "
            "kernel-core-… or kernel-default-… (.rpm)",
        )
    if len(kernels) > 1:
        raise KernelNotFound(
            f"{len(kernels)} kernels in {names}: {', '.join(sorted(kernels))}",
            remedy="name the packages of one kernel",
        )
    ((release, vmlinuz),) = kernels.items()
    image = read_bzimage(vmlinuz, f"the kernel in {names}")
    for other in (image.release, *homes):
        if other != release:
            where = homes.get(other)
            raise KernelNotFound(
                f"{where.name} holds modules of {other}, and the kernel is {release}"
                if where
                else f"the kernel of {release} in {names} calls itself {other}",
                remedy="give packages of one and the same build",
            )
    vmlinuz.rename(part / "vmlinuz")
    for config in (part / "found").glob(f"*/{release}/config"):
        if not config.is_symlink():
            config.rename(part / "config")
    shutil.rmtree(part / "found")
    return image


def finish(
    part: Path, image: BzImage, packages: Iterable[KernelPackage] = (), **meta: object
) -> None:
    """Add what is made from the bzImage, and what the entry is.

    Args:
        part: the directory; vmlinuz, config and modules are there.
        image: its bzImage.
        packages: what it was unpacked from.
        meta: spec, version and flavour, as in `harness.kernels.shelf.Cached`, and what else is
            worth keeping.
    """
    elf = part / "vmlinux"
    with elf.open("wb") as file:
        whole = write_elf(image, file)
    pvh = whole and has_pvh_entry(elf)
    if not pvh:
        elf.unlink()
    meta |= {"release": image.release, "sha256": image.sha256, "pvh": pvh}
    meta["packages"] = [asdict(package) for package in packages]
    (part / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def load(directory: Path, spec: str) -> KernelImage:
    """Return the kernel in a directory of the cache.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
    """
    meta: dict[str, Any] = json.loads((directory / "meta.json").read_text())
    vmlinuz = directory / "vmlinuz"
    modules = directory / "modules" / meta["release"]
    config = directory / "config"
    return KernelImage(
        spec=spec,
        release=meta["release"],
        version=meta["version"],
        boot=directory / "vmlinux" if meta["pvh"] else vmlinuz,
        vmlinuz=vmlinuz,
        modules=modules if modules.is_dir() else None,
        config=config if config.exists() else None,
        sha256=meta["sha256"],
        packages=tuple(KernelPackage(**package) for package in meta.get("packages", ())),
    )
