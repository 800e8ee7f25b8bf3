"""Kernel files of one's own, wherever a spec finds them, with what lies around them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import KernelNotFound
from harness.kernels.bzimage import BzImage, read_bzimage
from harness.kernels.entry import finish, land, load
from harness.kernels.image import KernelImage
from harness.kernels.installed import find_installed
from harness.kernels.spec import FileSpec, InstalledSpec, PathSpec, TreeSpec
from harness.kernels.tree import find_built
from harness.kernels.vmlinux import Vmlinux, is_elf, read_vmlinux
from harness.landing import cache_errors

if TYPE_CHECKING:
    from pathlib import Path


def locate(spec: FileSpec) -> PathSpec:
    """Return the files that a spec names.

    Raises:
        KernelNotFound: there are none.
    """
    match spec:
        case InstalledSpec():
            return find_installed(spec)
        case TreeSpec():
            return find_built(spec)
    return spec


def read_kernel(path: Path) -> BzImage | Vmlinux:
    """Read a kernel file.

    Raises:
        KernelNotFound: it is none that can be started.
    """
    return read_vmlinux(path) if is_elf(path) else read_bzimage(path)


def resolve_file(spec: FileSpec) -> KernelImage:
    """Return the kernel in a file.

    Raises:
        KernelNotFound: there is none, or the modules given are not its modules.
        CacheError: the cache cannot be written.
    """
    files = locate(spec)
    path = files.image.absolute()
    image = read_kernel(path)
    kernel = KernelImage(
        spec=str(spec.absolute()),
        release=image.release,
        version=image.banner,
        boot=path,
        vmlinuz=path,
        modules=_modules_directory(files.modules, image.release),
        config=_config_beside(path, image.release),
        sha256=image.sha256,
    )
    if isinstance(image, Vmlinux):
        return kernel
    directory = land(
        *("path", image.sha256),
        lambda part: finish(part, image, spec=f"path:{path}", version=image.banner, flavour="path"),
    )
    with cache_errors(str(directory)):
        directory.touch()  # `prune` keeps the last used
    boot = load(directory, "").boot
    return replace(kernel, boot=boot if boot.name == "vmlinux" else path)


def _modules_directory(given: Path | None, release: str) -> Path | None:
    if given is None:
        return None
    given = given.absolute()
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


def _config_beside(image: Path, release: str) -> Path | None:
    # /boot; /usr/lib/modules/<release>; a build tree, if its last build was this kernel.
    beside = image.parent / f"config-{release}"
    if beside.exists():
        return beside
    if image.parent.name == release and (image.parent / "config").exists():
        return image.parent / "config"
    tree = build_of(image)
    if tree is not None:
        built = tree / "include/config/kernel.release"
        if built.exists() and built.read_text().strip() == release and (tree / ".config").exists():
            return tree / ".config"
    return None


def build_of(image: Path) -> Path | None:
    """Return the directory that a kernel file was built in, if it still lies there."""
    if image.parts[-4:-1] == ("arch", "x86", "boot"):
        return image.parents[3]
    return image.parent if image.name == "vmlinux" else None
