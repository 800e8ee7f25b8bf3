"""Kernels that are installed on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.deb import version_key
from harness.errors import KernelNotFound
from harness.kernels.spec import InstalledSpec, PathSpec

ROOT = Path("/")
HOMES = ("lib/modules", "usr/lib/modules")


def find_installed(spec: InstalledSpec) -> PathSpec:
    """Return where the kernel of a release, or the running one, and its modules are.

    Raises:
        KernelNotFound: it is not installed, or it may not be read.
    """
    here = installed()
    release = spec.release or os.uname().release
    if release not in here:
        which = (
            f"no kernel {release} is installed"
            if spec.release
            else (f"the running kernel, {release}, is not installed (a container?)")
        )
        raise KernelNotFound(
            f"{which}: neither {ROOT / 'boot'}/vmlinuz-{release} nor lib/modules/{release}/vmlinuz",
            remedy=f"installed are {', '.join(here)}: name one, installed:{list(here)[-1]}"
            if here
            else "no kernel at all is installed here: debian:7.3 fetches one",
        )
    vmlinuz = here[release]
    if not os.access(vmlinuz, os.R_OK):
        raise KernelNotFound(
            f"{vmlinuz} may be read by root only",
            remedy=f"copy it (sudo install -m 644 {vmlinuz} .), then "
            f"path:{vmlinuz.name},modules={ROOT / 'lib/modules' / release}",
        )
    homes = (ROOT / home / release for home in HOMES)
    return PathSpec(vmlinuz, next((home for home in homes if home.is_dir()), None))


def installed() -> dict[str, Path]:
    """Return the kernels that are installed, by release, oldest version first."""
    found = {
        match[1]: path
        for path in ROOT.glob("boot/vmlinuz-*")
        if (match := re.fullmatch(r"vmlinuz-(\d.+)", path.name))
    }
    for home in HOMES:
        for path in ROOT.glob(f"{home}/*/vmlinuz"):
            found.setdefault(path.parent.name, path)
    return dict(sorted(found.items(), key=lambda item: version_key(item[0])))
