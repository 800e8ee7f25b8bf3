"""Running apt with a state directory of its own: its configuration, its progress, its failures."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import CacheError, FetchFailed, ToolMissing
from harness.landing import LOCK_DEADLINE, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

Progress = Callable[[str, int, int], None]
"""Called with what is being fetched, and how much of how much (bytes; percent for indices)."""

NO_APT = "fetch on a Debian machine, or use a kernel of your own: path:BZIMAGE[,modules=DIR]"

CONFIGURATION = """\
Dir::State "{root}/";
Dir::State::lists "lists/";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "{root}/";
Dir::Cache::archives "archives/";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
// The machine's hooks are for the machine's own packages.
#clear APT::Update;
#clear DPkg::Post-Invoke;
APT::Update::Error-Mode "any";
APT::Architecture "amd64";
APT::Sandbox::User "";
APT::Get::Show-User-Simulation-Note "false";
Acquire::Languages "none";
Acquire::Retries "3";
// One connection to each mirror.
Acquire::Queue-Mode "host";
// An archived release is signed but no longer re-dated, and old kernels are what we come for.
Acquire::Check-Valid-Until "false";
"""


@dataclass(frozen=True)
class Apt:
    """apt's tools, told to keep to a directory.

    Attributes:
        root: the directory: state, lists, source list, unfinished downloads.
    """

    root: Path

    def configure(self, source_list: str) -> None:
        """Write apt's configuration and the source list.

        Raises:
            CacheError: the disk is full or not writable.
        """
        write_atomically(self.root / "sources.list", source_list.encode())
        root = self.root.resolve()  # of the ways that lead here, this one stays
        write_atomically(self.root / "apt.conf", CONFIGURATION.format(root=root).encode())

    def must(
        self,
        tool: str,
        *arguments: str,
        cwd: Path | None = None,
        tolerate: bool = False,
        what: str = "",
        total: int = 0,
        progress: Progress | None = None,
    ) -> str:
        """Run one of apt's tools as `run` and return its output.

        Args:
            tool: like "apt-get".
            arguments: its arguments.
            cwd: where it runs.
            tolerate: take its output even if it fails.
            what: what is being fetched, for `progress`.
            total: how much that is.
            progress: told about the download.

        Raises:
            FetchFailed: it failed.
            CacheError: it filled the disk.
            ToolMissing: no apt on this machine.
        """
        code, out, err = self.run(
            tool, *arguments, cwd=cwd, what=what, total=total, progress=progress
        )
        if code and not tolerate:
            raise failure(f"{tool} {' '.join(arguments)}", err or out)
        return out

    def run(
        self,
        tool: str,
        *arguments: str,
        cwd: Path | None = None,
        what: str = "",
        total: int = 0,
        progress: Progress | None = None,
    ) -> tuple[int, str, str]:
        """Run one of apt's tools to its end; it dies with whatever interrupts this.

        Returns:
            Its exit status, its output and its complaints.

        Raises:
            ToolMissing: no apt on this machine.
        """
        # apt holds the lock itself, through flock(1): if this process is killed, an apt that
        # outlives it still keeps others out of its unfinished files.
        command = [
            *("flock", "--no-fork", "--timeout", f"{LOCK_DEADLINE:.0f}", str(self.root / "busy")),
            tool,
            *("-c", str(self.root / "apt.conf")),
        ]
        read, write = os.pipe()
        with (
            open(read) as status,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            try:
                process = start(
                    [*command, "-o", f"APT::Status-Fd={write}", *arguments],
                    cwd=cwd,
                    stdout=out,
                    stderr=err,
                    pass_fds=(write,),
                )
            finally:
                os.close(write)
            try:
                for line in status:
                    kind, _, rest = line.partition(":")
                    if kind == "dlstatus" and progress and total:
                        progress(what, int(float(rest.split(":")[1]) * total / 100), total)
                code = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
            out.seek(0)
            err.seek(0)
            return code, out.read(), err.read()


def start(command: list[str], **options: object) -> subprocess.Popen[str]:
    """Start a command of apt's, in the C locale.

    Raises:
        ToolMissing: there is no such program.
    """
    tool = next(word for word in command if word.startswith("apt-"))
    for program in {command[0], tool}:
        if shutil.which(program) is None:
            raise ToolMissing(f"there is no {program} on this machine", remedy=NO_APT)
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"}, text=True, **options
    )


def failure(command: str, output: str) -> FetchFailed | CacheError:
    """Return the error that a command of apt's ended with, from what it printed."""
    lines = output.strip().splitlines()
    errors = [line for line in lines if line.startswith("E:")]
    tail = "; ".join(errors[:3] or lines[-3:]) or "no output"
    if "No space left" in output or "enough free space" in output:
        return CacheError(
            f"`{command}` filled the disk: {tail}",
            remedy="free some space, or point CPUMAP_LAB_CACHE to a larger disk",
        )
    return FetchFailed(
        f"`{command}` failed: {tail}",
        remedy="check that this machine's apt reaches its mirror (`apt-get update`) and try again",
    )
