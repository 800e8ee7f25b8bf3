"""Programs for people in a guest (a shell, bpftool, an sshd), with the libraries that they need.

Each comes from the machine's own release, unpacked below the cache and never installed; where no
archive can be reached, the machine's own serves. They are not in the initramfs, but uploaded into
a guest that runs, so that they can be had in one that was frozen without them.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from harness.apt import Archive, own_codename
from harness.deb import unpack
from harness.errors import FetchFailed, GuestError, ToolMissing
from harness.landing import land_directory
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.agent.syscalls import Syscalls
    from harness.apt import Progress

MACHINE_LIBRARIES = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64")
LIBRARIES = "/lib64"
"""Where libraries go in the guest; /lib is a link to it: every dynamic linker looks in one."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program for guests.

    Attributes:
        package: that has it in Debian and its like.
        source: its path in the package, and on a machine that has it installed.
        target: its path in the guest.
    """

    package: str
    source: str
    target: str


BUSYBOX = Tool("busybox-static", "/bin/busybox", "/bin/busybox")
BPFTOOL = Tool("bpftool", "/usr/sbin/bpftool", "/bin/bpftool")
SSHD = Tool("dropbear-bin", "/usr/sbin/dropbear", "/bin/dropbear")
SFTP = Tool("openssh-sftp-server", "/usr/lib/openssh/sftp-server", "/usr/lib/sftp-server")

PROFILE = b"""\
export PATH=/bin HOME=/root PAGER=less
export PS1="$(uname -r):\\w # "
"""


def fetch_tool(tool: Tool, *, progress: Progress | None = None) -> Path:
    """Return the root that a tool lies below: its own in the cache, or else the machine's.

    Raises:
        ToolMissing: it cannot be fetched, and this machine has none.
        CacheError: the cache cannot be written.
    """

    def fill(part: Path) -> None:
        packages = archive.closure(tool.package, own_codename(), progress=progress)
        debs = archive.download(packages, part / "debs", what=tool.package, progress=progress)
        for deb in debs:
            unpack(deb, part, _place)
        shutil.rmtree(part / "debs")

    archive = Archive()
    try:
        return land_directory(cache_dir("toolbox") / tool.package, fill)
    except (FetchFailed, ToolMissing) as error:
        if Path(tool.source).is_file():
            return Path("/")
        raise ToolMissing(
            f"there is no {Path(tool.source).name} for guests: {error.message}",
            remedy=f"install the package {tool.package}, or see `cpumap-lab doctor`",
        ) from error


def _place(member: str) -> str | None:
    kept = member.removeprefix("usr/").startswith(("bin/", "sbin/", "lib/", "lib64/"))
    if not kept:
        return None
    # one directory for each, whether a package knows of the merged /usr or not
    return member if member.startswith("usr/") else f"usr/{member}"


def pack(tools: Iterable[tuple[Tool, Path]]) -> dict[str, Path]:
    """Return the files that guests need to run some tools, by their path in the guest.

    Args:
        tools: each with the root that `fetch_tool` gave.

    Raises:
        ToolMissing: a program is damaged, or no library of a name that it needs is there.
    """
    files: dict[str, Path] = {}
    roots = []
    for tool, root in tools:
        below = tool.source if root == Path("/") else f"/usr/{tool.source.removeprefix('/usr/')}"
        files[tool.target] = root / below[1:]
        roots += [root / "usr/lib/x86_64-linux-gnu", root / "usr/lib", root / "usr/lib64"]
    places = [*roots, *map(Path, MACHINE_LIBRARIES)]
    wanted = [(name, path) for path in files.values() for name in _needed(path)]
    for name, by in wanted:  # grows while it is walked: libraries need libraries
        target = f"{LIBRARIES}/{name}"
        if target in files:
            continue
        found = next((place / name for place in places if (place / name).is_file()), None)
        if found is None:
            raise ToolMissing(f"{by} needs {name}, which is neither beside it nor on this machine")
        files[target] = found
        wanted += [(other, found) for other in _needed(found)]
    return files


@cache
def _needed(path: Path) -> tuple[str, ...]:
    """Return the names of the shared objects that an ELF file asks for, its linker's included."""
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            names = []
            for segment in elf.iter_segments():
                if isinstance(segment, DynamicSegment):
                    names += [str(vars(tag)["needed"]) for tag in segment.iter_tags("DT_NEEDED")]
                elif isinstance(segment, InterpSegment):
                    names.append(Path(segment.get_interp_name()).name)
    except (OSError, ELFError) as error:
        raise ToolMissing(
            f"{path} is no program: {error}",
            remedy=f"remove {cache_dir('toolbox')}, to fetch it again",
        ) from error
    return tuple(names)


def upload(calls: Syscalls, files: dict[str, Path]) -> None:
    """Put files from the host into a guest, all of them executable.

    Raises:
        GuestError: the guest has no room for them.
    """
    make_directories(calls, {str(Path(target).parent) for target in files})
    if any(target.startswith(LIBRARIES) for target in files):
        _ignore_existing(calls, "symlink", f"{LIBRARIES[1:]}\0".encode(), b"/lib\0")
    for target, source in files.items():
        put(calls, target, source.read_bytes(), 0o755)


def install_shell(calls: Syscalls) -> None:
    """Make what a login finds in a guest: a shell, its user, its home.

    Raises:
        GuestError: the guest has no room.
    """
    make_directories(calls, ["/etc", "/root"])
    make_directories(calls, ["/root/.ssh"], 0o700)
    put(calls, "/etc/passwd", b"root:*:0:0:root:/root:/bin/sh\n", 0o644)
    put(calls, "/etc/group", b"root:*:0:\n", 0o644)
    put(calls, "/etc/profile", PROFILE, 0o644)
    install = [BUSYBOX.target, "--install", "-s", "/bin"]
    pid = calls.link.call("spawn", "exec", install, -1, 0, 0)
    calls.must("wait4", pid, 0, 0, 0)


def put(calls: Syscalls, target: str, content: bytes, mode: int) -> None:
    """Write a file in the guest that appears whole, with its mode, in place of what was there.

    Raises:
        GuestError: it cannot be written.
    """
    part = f"{target}.part"
    calls.link.call("write", part, content)
    calls.must("chmod", f"{part}\0".encode(), mode, why=target)
    calls.must("rename", f"{part}\0".encode(), f"{target}\0".encode(), why=target)


def make_directories(calls: Syscalls, directories: Iterable[str], mode: int = 0o755) -> None:
    """Make directories in the guest, and those above them; they may be there.

    Raises:
        GuestError: they cannot be made.
    """
    for directory in sorted(directories):
        for above in (*reversed(Path(directory).parents[:-1]), Path(directory)):
            _ignore_existing(calls, "mkdir", os.fsencode(above) + b"\0", mode)


def _ignore_existing(calls: Syscalls, name: str, *args: int | bytes) -> None:
    try:
        calls.must(name, *args)
    except GuestError as error:
        if error.errno != errno.EEXIST:
            raise
