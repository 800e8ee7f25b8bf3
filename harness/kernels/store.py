"""Kernels on disk: resolving a spec to a `KernelImage`, fetching what is missing, pruning.

Layout below `kernels/` in the cache:

    <release>_<version>/    vmlinuz, vmlinux (if it has the PVH note), config, modules/<release>/,
                            meta.json
    path/<sha256>/          the same without modules, for a bzImage of one's own
    specs/<spec>            the name of the directory that this spec was last resolved to
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from harness.apt import Archive, Progress
from harness.deb import unpack, version_key
from harness.errors import FetchFailed, KernelNotFound
from harness.kernels.bzimage import BzImage, extract_elf, has_pvh_entry, read_bzimage
from harness.kernels.debian import PATTERN, Build, builds_of, choose, fits, series_of
from harness.kernels.image import KernelImage
from harness.kernels.spec import DebianSpec, KernelSpec, PathSpec, parse_spec
from harness.landing import land_directory, sweep, take_away, write_atomically
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RECENT = 600.0
"""Seconds for which a kernel missing from the indices is believed to be missing."""


def resolve(
    spec: str | KernelSpec, *, refresh: bool = False, progress: Progress | None = None
) -> KernelImage:
    """Return the kernel that a spec names, fetched if it is not here.

    What a Debian spec was resolved to is remembered; apt is asked only the first time.

    Args:
        spec: see `harness.kernels.spec.FORMS`.
        refresh: ask the archive again what the newest build is.
        progress: told what is fetched.

    Raises:
        KernelNotFound: the spec names nothing; the message says what there is.
        FetchFailed, ToolMissing, CacheError: it could not be brought.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    if isinstance(parsed, PathSpec):
        return _resolve_path(parsed)
    if not refresh and (known := _remembered(parsed)):
        return known
    archive = Archive()
    if refresh:
        archive.refresh(force=True, progress=progress)
    try:
        directory = _fetch(parsed, archive, progress)
    except (KernelNotFound, FetchFailed):
        if archive.age() < RECENT:
            raise
        # It may be newer than the indices, or they may name what the mirror has since dropped.
        archive.refresh(force=True, progress=progress)
        directory = _fetch(parsed, archive, progress)
    write_atomically(cache_dir("kernels", "specs") / str(parsed), directory.name.encode())
    return _load(directory, str(parsed))


def _fetch(spec: DebianSpec, archive: Archive, progress: Progress | None) -> Path:
    build = choose(spec, builds_of(archive.packages(PATTERN, progress=progress)))
    return land_directory(
        cache_dir("kernels") / f"{build.release}_{build.version}",
        lambda part: _fill(part, build, archive, progress),
    )


def _remembered(spec: DebianSpec) -> KernelImage | None:
    try:
        name = (cache_dir("kernels", "specs") / str(spec)).read_text()
        return _load(cache_dir("kernels") / name, str(spec))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _load(directory: Path, spec: str) -> KernelImage:
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
    )


def _fill(part: Path, build: Build, archive: Archive, progress: Progress | None) -> None:
    debs = archive.download(build.packages, part / "debs", what=build.release, progress=progress)

    def place(member: str) -> str | None:
        path = re.sub(r"^(usr/)?lib/modules/", "modules/", member)
        if path in (f"boot/vmlinuz-{build.release}", f"modules/{build.release}/vmlinuz"):
            return "vmlinuz"
        if path in (f"boot/config-{build.release}", f"modules/{build.release}/config"):
            return "config"
        return path if path.startswith(f"modules/{build.release}/") else None

    for deb in debs:
        unpack(deb, part, place)
    vmlinuz = part / "vmlinuz"
    if not vmlinuz.exists():
        raise FetchFailed(
            f"no kernel in {', '.join(deb.name for deb in debs)}",
            remedy="Debian may have changed the layout of its kernel packages: try another build",
        )
    _finish(
        part,
        read_bzimage(vmlinuz),
        spec=f"debian:{build.release}",
        release=build.release,
        version=build.version,
        flavour=build.flavour,
        suites=build.suites,
        packages=[
            {"name": p.name, "version": p.version, "sha256": p.sha256} for p in build.packages
        ],
    )
    shutil.rmtree(part / "debs")


def _finish(part: Path, image: BzImage, **meta: object) -> None:
    elf = extract_elf(image)
    pvh = elf is not None and has_pvh_entry(elf)
    if elf is not None and pvh:
        (part / "vmlinux").write_bytes(elf)
    meta |= {"sha256": image.sha256, "pvh": pvh}
    (part / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def _resolve_path(spec: PathSpec) -> KernelImage:
    image = read_bzimage(spec.bzimage)
    modules = _modules_directory(spec, image.release) if spec.modules else None
    directory = land_directory(
        cache_dir("kernels", "path") / image.sha256,
        lambda part: _finish(
            part,
            image,
            spec=f"path:{spec.bzimage.absolute()}",
            release=image.release,
            version=image.banner,
            flavour="path",
        ),
    )
    directory.touch()  # `prune` keeps the last used
    kernel = _load(directory, str(spec))
    return replace(
        kernel,
        vmlinuz=spec.bzimage,
        boot=spec.bzimage if kernel.boot == kernel.vmlinuz else kernel.boot,
        modules=modules,
        config=_config_beside(spec.bzimage, image.release),
    )


def _modules_directory(spec: PathSpec, release: str) -> Path:
    given = cast("Path", spec.modules)
    for directory in (given, given / release, given / "lib/modules" / release):
        if any(
            (directory / mark).exists() for mark in ("modules.dep", "modules.builtin", "kernel")
        ):
            return directory
    raise KernelNotFound(
        f"{given} holds no modules of {release}: no modules.dep, modules.builtin or kernel/ "
        f"in it, in {release}/ or in lib/modules/{release}/",
        remedy="give the directory that `make modules_install INSTALL_MOD_PATH=…` filled",
    )


def _config_beside(bzimage: Path, release: str) -> Path | None:
    # /boot; /usr/lib/modules/<release>; a build tree, if its last build was this kernel.
    beside = bzimage.parent / f"config-{release}"
    if beside.exists():
        return beside
    if bzimage.parent.name == release and (bzimage.parent / "config").exists():
        return bzimage.parent / "config"
    if bzimage.parts[-4:-1] == ("arch", "x86", "boot"):
        tree = bzimage.parents[3]
        built = tree / "include/config/kernel.release"
        if built.exists() and built.read_text().strip() == release and (tree / ".config").exists():
            return tree / ".config"
    return None


@dataclass(frozen=True)
class Cached:
    """A kernel in the cache.

    Attributes:
        spec: the spec that names just this one.
        directory: where it is.
        release: its `uname -r`.
        version: see `KernelImage.version`.
        flavour: "cloud", "rt", "amd64", or "path" for what was unpacked from one's own bzImage.
        size: bytes on disk.
    """

    spec: str
    directory: Path
    release: str
    version: str
    flavour: str
    size: int


def cached() -> list[Cached]:
    """Return the kernels in the cache, oldest version first."""
    found = []
    for meta_path in cache_dir("kernels").glob("[!.]*/meta.json"):
        found.append(_cached(meta_path))
    found.sort(key=lambda kernel: version_key(kernel.version))
    own = [_cached(path) for path in cache_dir("kernels", "path").glob("[!.]*/meta.json")]
    own.sort(key=lambda kernel: kernel.directory.stat().st_mtime)
    return found + own


def _cached(meta_path: Path) -> Cached:
    meta = json.loads(meta_path.read_text())
    directory = meta_path.parent
    size = sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))
    return Cached(
        *(meta["spec"], directory, meta["release"], meta["version"], meta["flavour"], size)
    )


def prune(specs: Sequence[str] = (), *, keep: int = 1) -> list[Cached]:
    """Remove kernels from the cache, and what killed downloads left there.

    Args:
        specs: remove what these name, and nothing else.
        keep: without specs, how many builds to keep of each series and flavour (the newest), and
            how many of one's own kernels (the last used).

    Returns:
        What was removed.

    Raises:
        KernelNotFound: a spec that is none, or that names nothing in the cache.
        CacheError: the cache cannot be written.
    """
    all_kernels = cached()
    if specs:
        gone = [kernel for spec in specs for kernel in _named(spec, all_kernels)]
    else:
        kept: dict[str, int] = {}
        gone = []
        for kernel in reversed(all_kernels):
            own = kernel.flavour == "path"
            kind = "path" if own else f"{series_of(kernel.version)}-{kernel.flavour}"
            kept[kind] = kept.get(kind, 0) + 1
            if kept[kind] > keep:
                gone.append(kernel)
    for kernel in gone:
        take_away(kernel.directory)
    if not specs:
        Archive().sweep()
        for room in (cache_dir("kernels"), cache_dir("kernels", "path")):
            sweep(room)
    return gone


def _named(text: str, kernels: Sequence[Cached]) -> list[Cached]:
    spec = parse_spec(text)
    if isinstance(spec, PathSpec):
        sha256 = read_bzimage(spec.bzimage).sha256
        named = [kernel for kernel in kernels if kernel.directory.name == sha256]
    else:
        named = [k for k in kernels if k.flavour != "path" and fits(spec, k)]
    if not named:
        raise KernelNotFound(
            f"{text} is not in the cache", remedy="`cpumap-lab kernels list` says what is"
        )
    return named
