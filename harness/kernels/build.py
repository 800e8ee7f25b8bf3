"""Kernels built from source: out of tree into the cache, incrementally, through virtme-ng.

The configuration is our fragments over the kernel's own `allnoconfig`, made anew each time: it
depends on tree and fragments only, never on what was built there before. virtme-ng would start from
the architecture's defconfig and add sound, graphics and 9p, ten times as much to compile; given an
output directory that is configured, it leaves that alone and runs make. The same source gives the
same bytes, because the time and place of the build are left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import CacheError, KernelNotFound, LabError, ToolMissing
from harness.kernels.kconfig import options_of
from harness.kernels.toolchain import check_toolchain, missing_tool
from harness.landing import cache_errors, locked
from harness.paths import cache_dir
from harness.vng import find_vng, search_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from harness.apt import Progress
    from harness.kernels.kconfig import Fragment

IMAGE = "arch/x86/boot/bzImage"
LOG = "build.log"
NICENESS = 19
"""Guests are judged by deadlines; a build beside them has none."""
STOP_S = 20.0
REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "cpumap-lab",
    "KBUILD_BUILD_HOST": "cpumap-lab",
    "KBUILD_BUILD_VERSION": "1",
    "LC_ALL": "C",
}
"""Documentation/kbuild/reproducible-builds.rst."""

_STEP = re.compile(r"^  [A-Z]{2}[A-Z0-9\[\] ]* +\S")
_ERROR = re.compile(
    r"error:|undefined reference|multiple definition|^ERROR:|\*\*\* (?!\[)|No rule to make target"
)
_STARVED = re.compile(
    r"Killed signal terminated program|virtual memory exhausted|[Cc]annot allocate memory|"
    r"out of memory|fork: |Resource temporarily unavailable|internal compiler error"
)


class BuildFailed(LabError):
    """This source does not build: the machine that tried is not to blame.

    Attributes:
        errors: the first lines in which the compiler or make said so.
        log: the whole output.
    """

    def __init__(self, message: str, *, errors: tuple[str, ...], log: Path) -> None:
        told = "\n    ".join((message, *errors))
        super().__init__(told, remedy=f"all that was said is in {log}")
        self.errors = errors
        self.log = log


@dataclass(frozen=True)
class Built:
    """A kernel that was built.

    Attributes:
        output: the output directory.
        refused: options that were asked for, like "PREEMPT_VOLUNTARY=y", and that this tree does
            not have or gives another value.
    """

    output: Path
    refused: tuple[str, ...]

    @property
    def image(self) -> Path:
        """The bzImage, which a `path:` spec takes."""
        return self.output / IMAGE

    @property
    def vmlinux(self) -> Path:
        """The ELF kernel with its symbols."""
        return self.output / "vmlinux"

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.output / ".config"

    @property
    def release(self) -> str:
        """Its `uname -r`."""
        return (self.output / "include/config/kernel.release").read_text().strip()


def output_of(source: Path, fragments: Sequence[Fragment]) -> Path:
    """Return the directory in the cache that kernels of this tree and these fragments share."""
    names = "+".join(fragment.name for fragment in fragments)
    told = "\0".join((str(source.resolve()), *(fragment.name for fragment in fragments)))
    digest = hashlib.sha256(told.encode()).hexdigest()[:12]
    return cache_dir("builds") / f"{source.resolve().name}-{names}-{digest}"


def build_kernel(
    source: Path,
    fragments: Sequence[Fragment],
    output: Path,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Built:
    """Build the kernel of a source tree; what is built already is not built again.

    Args:
        source: the tree, which is only read.
        fragments: its configuration; where they disagree, the last one holds.
        output: where all goes (make's O=), made if needed.
        jobs: what make does at the same time; None: as many as there are CPUs.
        progress: told how many steps were done, of 0: nobody knows how many there are.

    Raises:
        KernelNotFound: it is no kernel tree, or it was built in place.
        BuildFailed: the tree does not build.
        ToolMissing: what builds kernels is not on this machine, or cannot build this one.
        CacheError: the disk is full or not writable.
        LabError: this machine is at fault in another way.
    """
    source, output = source.resolve(), output.absolute()
    _check_tree(source)
    vng = find_vng()
    if vng is None:
        raise ToolMissing("there is no virtme-ng to build kernels with", remedy="run `ci/setup`")
    check_toolchain()
    with cache_errors(str(output)):
        output.mkdir(parents=True, exist_ok=True)
    variables = [given for fragment in fragments for given in fragment.variables]
    jobs = jobs or len(os.sched_getaffinity(0))
    with locked(output), cache_errors(str(output)):
        log = output / LOG
        log.write_bytes(b"")
        make = _Make(source, output, {"PATH": search_path(vng), "HOME": str(output)}, progress)
        _configure(make, fragments, variables)
        build = (str(vng), "--build", "--verbose", "--skip-modules", "--jobs", str(jobs))
        make.run([*build, f"O={output}", *variables])
        options = options_of((output / ".config").read_text())
        asked = {name: value for part in fragments for name, value in part.options.items()}
        refused = [f"{n}={v}" for n, v in asked.items() if options.get(n, "n") != v]
        built = Built(output, tuple(refused))
        if not built.image.exists():
            raise LabError(f"`vng --build` made no {built.image}", remedy=f"see {log}")
    return built


def _check_tree(source: Path) -> None:
    if not (source / "kernel/bpf/cpumap.c").exists() or not (source / "Kbuild").exists():
        raise KernelNotFound(
            f"{source} is no kernel source tree: it has no Kbuild or no kernel/bpf/cpumap.c",
            remedy="give the directory that holds the kernel's own Makefile",
        )
    if (source / ".config").exists() or (source / "include/config").exists():
        raise KernelNotFound(
            f"a kernel was built or configured in {source} itself, and its make refuses to build "
            "anywhere else then",
            remedy=f"`make -C {source} mrproper` (it removes the configuration, too), or give a "
            "`git worktree` of it",
        )


def _configure(make: _Make, fragments: Sequence[Fragment], variables: Sequence[str]) -> None:
    """Write the configuration; the file is touched only if it changes, or make would look again."""
    output = make.output
    asked, fresh, config = output / "asked.config", output / "fresh.config", output / ".config"
    asked.write_text("\n".join(fragment.text for fragment in fragments))
    goal = ("make", "-C", str(make.source), f"O={output}", "LOCALVERSION=-virtme", *variables)
    make.run([*goal, f"KCONFIG_ALLCONFIG={asked}", f"KCONFIG_CONFIG={fresh}", "allnoconfig"])
    if not config.exists() or config.read_bytes() != fresh.read_bytes():
        fresh.replace(config)


_WITH_US = """
exec 3<&0 </dev/null
{ trap "" TERM; cat; kill -KILL 0; } <&3 >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"""
"""Runs a command in whose process group one waits for the pipe's other end to close, even by the
lab's death, and then kills the group: make tells its children nothing when it is killed."""


class _Make:
    """Runs make, or vng, on a tree.

    Args:
        source: where it runs.
        output: whose log is written to.
        env: additions to the environment.
        progress: told the steps.
    """

    def __init__(
        self, source: Path, output: Path, env: dict[str, str], progress: Progress | None
    ) -> None:
        self.source = source
        self.output = output
        self._env = {**os.environ, **REPRODUCIBLE, **env}
        self._progress = progress
        self._steps = 0

    def run(self, argv: Sequence[str]) -> None:
        """Run a command to its end; it dies with whatever interrupts this.

        Raises:
            BuildFailed, ToolMissing, CacheError, LabError: as `build_kernel`.
        """
        log = self.output / LOG
        with log.open("ab") as file, self._started(argv) as child:
            for line in child.stdout or ():
                file.write(line)
                if self._progress and _STEP.match(line.decode(errors="replace")):
                    self._steps += 1
                    self._progress(f"building {self.source.name}", self._steps, 0)
            status = child.wait()
        if status:
            raise failure_of(self.source, log)

    @contextlib.contextmanager
    def _started(self, argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        child = subprocess.Popen(
            ["sh", "-c", _WITH_US, "sh", "nice", "-n", str(NICENESS), *argv],
            cwd=self.source,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # a Ctrl-C is for the lab, which then ends make and its compilers
        )
        with child:  # closes the pipe: whoever is still there is killed
            try:
                yield child
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGTERM)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(STOP_S)


def failure_of(source: Path, log: Path) -> LabError:
    """Return the error that a build ended with: the source's fault, or the machine's."""
    text = log.read_text(errors="replace")
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return CacheError(
            f"the disk filled while {source} was built in {log.parent}",
            remedy="free some space, or point CPUMAP_LAB_CACHE to a larger disk",
        )
    if lacking := missing_tool(text):
        return lacking
    if "is too old" in text:
        why = next(line for line in text.splitlines() if "is too old" in line)
        return ToolMissing(
            f"this machine's tools cannot build {source}: {why.strip()}",
            remedy="build it on a newer machine",
        )
    if starved := _STARVED.search(text):
        return LabError(
            f"building {source} failed for want of memory, or the compiler broke: {starved[0]}",
            remedy=f"see {log}; fewer jobs (--jobs 1) need less memory",
        )
    if "Traceback (most recent call last)" in text and not _ERROR.search(text):
        return LabError(f"virtme-ng failed to build {source}", remedy=f"see {log}")
    lines = [line.strip() for line in text.splitlines() if _ERROR.search(line)]
    errors = tuple(dict.fromkeys(lines))[:5] or tuple(text.strip().splitlines()[-3:])
    return BuildFailed(f"{source} does not build:", errors=errors, log=log)
