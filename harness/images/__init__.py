"""The initramfs that a guest boots: agent, BPF objects, and the kernel's modules in load order."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import libarchive
from libarchive.entry import FileType

from harness.errors import ToolMissing
from harness.kernels import plan_modules, read_module
from harness.kernels.modules import module_name
from harness.landing import write_atomically
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.kernels import KernelImage

KEPT = 64
MOUNT_POINTS = ("proc", "sys", "dev", "tmp", "run")


@dataclass(frozen=True)
class Initramfs:
    """An initramfs on disk.

    Attributes:
        path: the file for QEMU's `-initrd`.
        digest: sha256 of the file, in hexadecimal.
        missing: modules asked for that the kernel has neither as a file nor built in.
    """

    path: Path
    digest: str
    missing: tuple[str, ...] = ()


def build_initramfs(
    kernel: KernelImage, *, agent: Path, objects: Sequence[Path], modules: Sequence[str]
) -> Initramfs:
    """Pack an initramfs for a kernel: the same input gives the same bytes.

    It holds `/init` (the agent), `/bpf/<object>`, `/modules/NNN-<name>.ko` unpacked, with
    `/modules/order` listing them in load order, and empty directories to mount on.

    Args:
        kernel: whose modules to pack.
        agent: a static program.
        objects: BPF object files, each of another name.
        modules: names of modules; what they depend on comes along.

    Raises:
        ToolMissing: the agent or an object has not been built.
        KernelNotFound: a module is damaged or built for another kernel.
        CacheError: the cache cannot be written.
    """
    base, own, missing = _contents(kernel, agent, objects, modules)
    # The kernel unpacks archives laid end to end, if each begins at a multiple of four bytes.
    content = newc(base) + newc(own)
    digest = hashlib.sha256(content).hexdigest()
    path = cache_dir("images") / f"{digest}.cpio"
    try:
        os.utime(path)  # the time of use, for `prune`
    except FileNotFoundError:
        write_atomically(path, content)
        prune(KEPT)
    return Initramfs(path, digest, missing)


def lay_out(
    room: Path, kernel: KernelImage, *, agent: Path, objects: Sequence[Path], modules: Sequence[str]
) -> None:
    """Put what an initramfs has into an empty directory; arguments and errors as there."""
    base, own, _ = _contents(kernel, agent, objects, modules)
    for name, content in (base | own).items():
        if content is None:
            (room / name).mkdir()
            continue
        (room / name).write_bytes(content)
    (room / "init").chmod(0o755)


def _contents(
    kernel: KernelImage, agent: Path, objects: Sequence[Path], modules: Sequence[str]
) -> tuple[dict[str, bytes | None], dict[str, bytes | None], tuple[str, ...]]:
    """Return what is the same for all kernels, what is this one's, and the modules it lacks."""
    plan = plan_modules(kernel, modules)
    base: dict[str, bytes | None] = dict.fromkeys((*MOUNT_POINTS, "bpf"))
    base["init"] = _built(agent)
    for path in sorted(objects, key=lambda path: path.name):
        base[f"bpf/{path.name}"] = _built(path)
    own: dict[str, bytes | None] = {"modules": None}
    names = []
    for number, path in enumerate(plan.files):
        names.append(f"{number:03}-{module_name(path)}.ko")
        own[f"modules/{names[-1]}"] = read_module(path)
    own["modules/order"] = "".join(f"{name}\n" for name in names).encode()
    return base, own, plan.missing


def prune(keep: int) -> None:
    """Remove all but the initramfs used last; they are quick to pack again."""
    used: list[tuple[float, Path]] = []
    for path in cache_dir("images").glob("*.cpio"):
        with contextlib.suppress(FileNotFoundError):  # another process prunes too
            used.append((path.stat().st_mtime, path))
    for _, path in sorted(used, reverse=True)[keep:]:
        path.unlink(missing_ok=True)


def newc(entries: dict[str, bytes | None]) -> bytes:
    """Return a cpio archive as the kernel reads it, padded to a multiple of 512 bytes.

    Args:
        entries: from path to content, or to None for a directory; in order, parents first.
    """
    packed = io.BytesIO()
    with libarchive.custom_writer(packed.write, "cpio_newc", block_size=512) as archive:
        for path, content in entries.items():
            directory = content is None
            archive.add_file_from_memory(
                path,
                len(content or b""),
                content or b"",
                filetype=FileType.DIRECTORY if directory else FileType.REGULAR_FILE,
                permission=0o755 if directory or path == "init" else 0o644,
                uid=0,
                gid=0,
                mtime=0,
            )
    packed.write(bytes(-packed.tell() % 512))
    return packed.getvalue()


def _built(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ToolMissing(
            f"cannot read {path} for the initramfs: {error.strerror}",
            remedy="build the guest's programs: `make -C guest`",
        ) from error
