"""Fetches that are killed: run as a program by test_killed_fetch.py, with one thread only, to fork.

Each audited step of a fetch (a file opened to be written, a rename, a program started, …) is where
one fetch dies by SIGKILL, with all that it started.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.apt import mirrors
from harness.kernels import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = {
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink"),
    *("open", "shutil.rmtree", "subprocess.Popen", "fcntl.flock"),
}


def is_step(event: str, args: tuple[object, ...]) -> bool:
    """Say whether an audit event may change something outside of the process."""
    return event in STEPS and (
        event != "open" or bool(int(str(args[2])) & (os.O_WRONLY | os.O_RDWR))
    )


def fetch(spec: str, cache: Path, *, die_at: int = 0) -> list[str]:
    """Fetch in a process of its own, and return its steps.

    Args:
        spec: the kernel.
        cache: the cache.
        die_at: the step at which it kills itself and all that it started; 0 for none.
    """
    steps = cache.with_suffix(".steps")
    pid = os.fork()
    if not pid:
        os.setsid()
        os.environ["CPUMAP_LAB_CACHE"] = str(cache)
        told = os.open(steps, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        count = 0

        def hook(event: str, args: tuple[object, ...]) -> None:
            nonlocal count
            if is_step(event, args):
                count += 1
                os.write(told, f"{event}\n".encode())
                if count == die_at:
                    os.killpg(0, signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            resolve(spec)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if killed != bool(die_at) or (not killed and status):
        raise RuntimeError(f"{spec}, to die at {die_at}: ended with {status}")
    return steps.read_text().split()


def contents(cache: Path) -> list[str]:
    """Return what a cache holds, but for locks, which stay."""
    names = (str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.endswith((".lock", "/busy")))


def report(root: Path, first: str, second: str, every: int) -> Iterator[dict[str, object]]:
    """Kill a fetch at each `every`-th step, and fetch another kernel, then the same one.

    Yields:
        For each kill the step, what was left when another kernel had been fetched, and what
        differs from a cache in which nothing was killed when the same one had been fetched, too.
    """
    whole = root / "whole"
    steps = fetch(first, whole)
    alone = contents(whole)
    fetch(second, whole)
    both = contents(whole)
    yield {"steps": steps, "alone": alone}
    for number in range(1, len(steps) + 1, every):
        cache = root / f"killed-{number}"
        fetch(first, cache, die_at=number)
        fetch(second, cache)
        left = [name for name in contents(cache) if name not in both]
        fetch(first, cache)
        odd = sorted(set(contents(cache)) ^ set(both))
        yield {"at": number, "step": steps[number - 1], "left": left, "odd": odd}


if __name__ == "__main__":
    mirrors.KEYRINGS = (Path(sys.executable),)  # nothing that is served is signed
    place, *specs, every = sys.argv[1:]
    for told in report(Path(place), specs[0], specs[1], int(every)):
        print(json.dumps(told), flush=True)
