"""What somebody should know who gets a prompt in a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.machine.machine import Recipe

MAX_REASONS = 8
LAST_LINES = 25
"""Of a console, that are told of a guest which gives no prompt."""
LOOK = """\
look at: bpftool map; bpftool prog; bpftool net
         dmesg | less; ls /sys/kernel/tracing; ps; cat /proc/softirqs; mount
"""
NO_BPFTOOL = LOOK.replace("bpftool map; bpftool prog; bpftool net", "ls /sys/fs/bpf (no bpftool)")


def tell(recipe: Recipe, failed: Path | None, *, bpftool: bool) -> Iterator[str]:
    """Yield the lines of a banner before a prompt.

    Args:
        recipe: of the guest.
        failed: the results of the run that it is of; None for a fresh one.
        bpftool: whether the guest has it.
    """
    yield from tell_guest(recipe, failed)
    yield from (LOOK if bpftool else NO_BPFTOOL).splitlines()
    yield "leave:   exit, Ctrl-D, or Ctrl-] if the guest does not answer"


def tell_silent(recipe: Recipe, failed: Path | None, console: str) -> Iterator[str]:
    """Yield the lines of a banner where there is no prompt.

    Args:
        recipe: of the guest.
        failed: the results of the run that it is of; None for a fresh one.
        console: what it has printed.
    """
    yield from tell_guest(recipe, failed)
    yield "the last lines of its console:"
    yield from (f"  {line}" for line in console.rstrip().splitlines()[-LAST_LINES:])


def tell_guest(recipe: Recipe, failed: Path | None) -> Iterator[str]:
    """Yield what guest it is, and why its run failed."""
    topology = recipe.topology
    yield (
        f"{recipe.kernel.release} ({recipe.kernel.spec}), {topology.cpus} CPUs, "
        f"{topology.memory_mib} MiB"
    )
    if failed is None:
        yield "a fresh guest, ready for a run; it is gone when you leave"
    else:
        yield f"as it was when {failed.name} had failed; a copy, gone when you leave"
        yield from _reasons(failed)


def _reasons(failed: Path) -> Iterator[str]:
    """Yield why a run failed, from its why.txt."""
    try:
        lines = (failed / "why.txt").read_text("utf-8", "replace").splitlines()
    except OSError:  # somebody has tidied up
        return
    yield from (f"  {line}" for line in lines[:MAX_REASONS])
    if len(lines) > MAX_REASONS:
        yield f"  … {len(lines) - MAX_REASONS} more in why.txt"
