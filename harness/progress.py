"""Shows how a fetch is getting on: bars on a terminal, one line per thing otherwise."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def shown() -> Iterator[Callable[[str, int, int], None]]:
    """Give a `harness.apt.Progress` that writes to standard error.

    Where the total is 0, nobody knows it: what is done is a sentence then, like "building x".
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        begun: set[str] = set()

        def line(what: str, _done: int, total: int) -> None:
            if what not in begun:
                begun.add(what)
                click.echo(f"fetching {what}" if total else what, err=True)

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def bar(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            if total:
                bars.update(tasks[what], completed=done)
            elif done:
                bars.update(tasks[what], description=f"{what}: step {done}")

        yield bar


def megabytes(size: int) -> str:
    """Return a size in bytes for people, like "27 MB"."""
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
