"""Resolving a spec to a `KernelImage`, fetching what is missing.

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
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from harness.apt import Archive, Progress
from harness.deb import unpack
from harness.errors import FetchFailed, KernelNotFound
from harness.kernels.bzimage import BzImage, extract_elf, has_pvh_entry, read_bzimage
from harness.kernels.debian import PATTERN, Build, builds_of, choose
from harness.kernels.image import KernelImage
from harness.kernels.spec import DebianSpec, KernelSpec, PathSpec, parse_spec
from harness.landing import cache_errors, land_directory, write_atomically
from harness.paths import cache_dir

if TYPE_CHECKING:
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
    if not refresh and (known := remembered(parsed)):
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
    kernel = _load(directory, str(parsed))
    exact = parse_spec(f"debian:{kernel.release}")
    # A release like "7.3-amd64" reads as the newest 7.3 of that flavour: it has no spec of its own.
    own = [exact] if isinstance(exact, DebianSpec) and exact.release else []
    for known_as in {parsed, *own}:
        write_atomically(cache_dir("kernels", "specs") / str(known_as), directory.name.encode())
    return kernel


def _fetch(spec: DebianSpec, archive: Archive, progress: Progress | None) -> Path:
    builds = builds_of(archive.packages(PATTERN, progress=progress))
    try:
        build = choose(spec, builds)
    except KernelNotFound as error:
        notes = "; ".join(archive.refresh(progress=progress))
        if not notes:
            raise
        raise KernelNotFound(f"{error.message} ({notes})", remedy=error.remedy) from error
    return land_directory(
        cache_dir("kernels") / f"{build.release}_{build.version}",
        lambda part: _fill(part, build, archive, progress),
    )


def remembered(spec: str | KernelSpec) -> KernelImage | None:
    """Return the kernel that a spec was resolved to before; None if it has to be fetched.

    Raises:
        KernelNotFound: the spec cannot be read, or names a file that is no kernel.
    """
    parsed = parse_spec(spec) if isinstance(spec, str) else spec
    if isinstance(parsed, PathSpec):
        return _resolve_path(parsed)
    try:
        name = (cache_dir("kernels", "specs") / str(parsed)).read_text()
        return _load(cache_dir("kernels") / name, str(parsed))
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


def _resolve_path(given: PathSpec) -> KernelImage:
    spec = PathSpec(given.bzimage.absolute(), given.modules and given.modules.absolute())
    image = read_bzimage(spec.bzimage)
    modules = _modules_directory(spec, image.release) if spec.modules else None
    directory = land_directory(
        cache_dir("kernels", "path") / image.sha256,
        lambda part: _finish(
            part,
            image,
            spec=f"path:{spec.bzimage}",
            release=image.release,
            version=image.banner,
            flavour="path",
        ),
    )
    with cache_errors(str(directory)):
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
