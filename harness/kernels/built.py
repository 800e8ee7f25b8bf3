"""Kernels built from a source tree as it stands, or from a commit of it.

A commit is checked out in a clone of one's own in the cache, which borrows the tree's objects: the
tree and its repository are only read. One clone serves all commits, so that only what differs from
one to the next is compiled again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import KernelNotFound, LabError
from harness.kernels.build import build_kernel, output_of
from harness.kernels.bzimage import read_bzimage
from harness.kernels.entry import finish, land, load
from harness.kernels.kconfig import own_fragments
from harness.kernels.own import resolve_file
from harness.kernels.spec import BuildSpec, PathSpec
from harness.kernels.stale import overtaken
from harness.landing import land_directory, locked
from harness.paths import cache_dir

if TYPE_CHECKING:
    from pathlib import Path

    from harness.apt import Progress
    from harness.kernels.image import KernelImage
    from harness.kernels.kconfig import Fragment


def resolve_build(given: BuildSpec, progress: Progress | None = None) -> KernelImage:
    """Return the kernel of a source tree, built; what is built already is not built again.

    Raises:
        KernelNotFound: there is no such tree or commit.
        BuildFailed: it does not build.
        ToolMissing, CacheError, LabError: this machine is at fault.
    """
    spec = given.absolute()
    fragments = own_fragments()
    _check_directory(spec)
    if not spec.commit:
        output = output_of(spec.directory, fragments)
        built = build_kernel(spec.directory, fragments, output, progress=progress)
        return replace(resolve_file(PathSpec(built.image)), spec=str(spec))
    commit = _commit_of(spec)

    def fill(part: Path) -> None:
        clone = _clone(spec)
        with locked(clone):
            if progress:
                progress(f"checking out {commit[:12]} of {spec.directory.name}", 0, 0)
            (clone / ".git/index.lock").unlink(missing_ok=True)  # of one that was killed
            _git(clone, "checkout", "--quiet", "--force", "--detach", commit)
            built = build_kernel(clone, fragments, output_of(clone, fragments), progress=progress)
            shutil.copyfile(built.image, part / "vmlinuz")
            shutil.copyfile(built.config, part / "config")
        image = read_bzimage(part / "vmlinuz")
        finish(part, image, spec=str(spec), version=image.banner, flavour="build")

    return load(land("builds", build_name(commit, fragments), fill), str(spec))


def recall_build(given: BuildSpec) -> KernelImage | None:
    """Return the kernel of a source tree if it need not be built; None if it does.

    Raises:
        KernelNotFound: there is no such tree or commit.
    """
    spec = given.absolute()
    fragments = own_fragments()
    _check_directory(spec)
    if spec.commit:
        name = build_name(_commit_of(spec), fragments)
        try:
            return load(cache_dir("kernels", "builds") / name, str(spec))
        except FileNotFoundError:
            return None
    output = output_of(spec.directory, fragments)
    files = PathSpec(output / "arch/x86/boot/bzImage")
    if not files.image.exists() or overtaken(output, files.image):
        return None
    return replace(resolve_file(files), spec=str(spec))


def build_name(commit: str, fragments: tuple[Fragment, ...]) -> str:
    """Return what the kernel of a commit is called in the cache."""
    told = "\0".join(fragment.text for fragment in fragments)
    return f"{commit}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _check_directory(spec: BuildSpec) -> None:
    if not spec.directory.is_dir():
        raise KernelNotFound(
            f"there is no directory {spec.directory}",
            remedy="give the top directory of a kernel tree",
        )


def _commit_of(spec: BuildSpec) -> str:
    try:
        return _git(spec.directory, "rev-parse", "--verify", "--quiet", f"{spec.commit}^{{commit}}")
    except LabError as error:
        raise KernelNotFound(
            f"{spec.directory} has no commit {spec.commit}",
            remedy=f"is it a git repository? `git -C {spec.directory} log {spec.commit}` tells",
        ) from error


def _clone(spec: BuildSpec) -> Path:
    digest = hashlib.sha256(str(spec.directory).encode()).hexdigest()[:12]

    def fill(part: Path) -> None:
        _git(part, "clone", "--quiet", "--shared", "--no-checkout", str(spec.directory), ".")

    return land_directory(cache_dir("builds") / f"{spec.directory.name}-{digest}", fill)


def _git(where: Path, *words: str) -> str:
    """Run git in a directory, whatever repository a caller of ours may have told it of."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(where), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()
        raise LabError(
            f"`{' '.join(command)}` failed: {why[-1] if why else f'status {done.returncode}'}",
            remedy="check the repository; the clone in the cache may be removed",
        )
    return done.stdout.strip()
