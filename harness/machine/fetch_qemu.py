"""Brings a QEMU newer than the distribution's, beside the system, not into it.

QEMU 7.2 under multi-threaded TCG breaks booting kernels now and then (an int3 oops at a static-key
site, or silence); the backports build does not. It is unpacked below the cache and run from there.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from harness.apt import Archive, Progress, own_codename
from harness.deb import unpack
from harness.errors import ToolMissing
from harness.landing import land_directory, take_away
from harness.machine.qemu import PROGRAM, Qemu, ask, surroundings, unpacked_qemu
from harness.paths import cache_dir

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = "qemu-system-x86"
FIRMWARE = ("qemu-system-common", "qemu-system-data", "seabios", "ipxe-qemu")
"""Unpacked even if the machine has them, so that QEMU's -L directories are whole."""

_LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/icons", "usr/share/lintian")


def fetch_qemu(*, progress: Progress | None = None) -> Qemu:
    """Bring the newest QEMU of the machine's own release or its backports; return it.

    Shared libraries that the machine has and that are new enough are used from there.

    Raises:
        FetchFailed: it could not be had.
        ToolMissing: this is no Debian machine, or what was brought does not run on it.
        CacheError: the disk is full or not writable.
    """
    codename = own_codename()
    if not codename:
        raise ToolMissing(
            "this machine's os-release names no release to take QEMU from",
            remedy="install QEMU 8 or newer with the machine's own package manager",
        )
    archive = Archive()
    packages = archive.closure(PACKAGE, codename, always=FIRMWARE, progress=progress)
    version = packages[-1].version

    def fill(part: Path) -> None:
        debs = archive.download(packages, part / "debs", what=f"QEMU {version}", progress=progress)
        for deb in debs:
            unpack(deb, part, _place)
        shutil.rmtree(part / "debs")
        args, env = surroundings(part)
        for question in (("--version",), ("-machine", "help")):
            ask(part / "usr/bin" / PROGRAM, *args, *question, env=env)

    dest = cache_dir("qemu") / version.replace(":", "_")
    if dest.is_dir():
        try:
            return unpacked_qemu(dest)
        except ToolMissing:
            # A library of the machine's that it used has gone: this time it is in the closure.
            take_away(dest)
    return unpacked_qemu(land_directory(dest, fill))


def _place(member: str) -> str | None:
    if member.startswith(_LEFT_OUT):
        return None
    # One library directory, whether the package knows of the merged /usr or not.
    return f"usr/{member}" if member.startswith(("lib/", "bin/", "sbin/")) else member
