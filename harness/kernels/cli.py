"""`cpumap-lab kernels`: what there is, bring it, say what it is, throw it away."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from harness.apt import Archive
from harness.errors import FetchFailed, ToolMissing
from harness.kernels.build_cli import build_command
from harness.kernels.check_cli import check_command
from harness.kernels.debian import PATTERN, Build, builds_of, choose, series_of, upstream_of
from harness.kernels.lock_cli import LOCKED, lock_command
from harness.kernels.shelf import Cached, cached, prune
from harness.kernels.show import facts_of
from harness.kernels.spec import FLAVOURS, DebianSpec
from harness.kernels.store import resolve
from harness.kernels.trees import prune_trees
from harness.progress import megabytes, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.kernels.lock import Lock


@dataclass(frozen=True)
class Row:
    """One line of `kernels list`.

    Attributes:
        spec: the shortest spec that means this build.
        release: its `uname -r`.
        version: the Debian version, or the banner of one's own kernel.
        flavour: "cloud", "rt", "amd64"; or "path", "deb", "rpm" for one's own.
        suites: the suites that carry it; none if the archive has dropped it.
        bytes: to download; 0 if it cannot be.
        complete: False if the archive has dropped its modules.
        cached: the directory that it is unpacked in, or None.
    """

    spec: str
    release: str
    version: str
    flavour: str
    suites: tuple[str, ...]
    bytes: int
    complete: bool
    cached: str | None


@click.group("kernels")
def kernels() -> None:
    """List, fetch, build, show, lock and prune the kernels to test.

    \b
    A kernel spec is one of
      debian:6.12                   the newest 6.12 of Debian's archive, cloud flavour
      debian:7.3-rt                 another flavour: rt, amd64 (the standard one)
      debian:6.12.43                that very version
      debian:6.1.0-56-cloud-amd64   that very build, by its `uname -r`
      path:FILE[,modules=DIR]       a bzImage, or a vmlinux with the PVH note
      deb:FILE[,FILE...]            what is in .deb files
      rpm:FILE[,FILE...]            what is in .rpm files
      installed[:RELEASE]           the kernel that runs here; another that is installed
      tree:DIR                      what was last built in a source tree
      build:DIR[@COMMIT]            built from a source tree, or a commit of it
    """  # noqa: D301


kernels.add_command(lock_command)
kernels.add_command(build_command)
kernels.add_command(check_command)


@kernels.command("list")
@click.option("--all", "everything", is_flag=True, help="Every build, not the newest of a series.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_command(everything: bool, as_json: bool) -> None:
    """List the kernels that the Debian archive has, and those in the cache."""
    builds: list[Build] = []
    notes: list[str] = []
    archive = Archive()
    try:
        with shown() as progress:
            notes += archive.refresh(progress=progress)
        builds = builds_of(archive.packages(PATTERN))
    except (FetchFailed, ToolMissing) as error:
        notes.append(f"only what is in the cache is listed: {error.message}")
    rows = rows_of(builds, cached())
    if not everything:
        rows, dropped = newest(rows)
        if dropped:
            notes.append(f"the archive has dropped the modules of {', '.join(dropped)}")
    if as_json:
        click.echo(json.dumps({"kernels": [asdict(row) for row in rows], "notes": notes}, indent=1))
        return
    table = Table("SPEC", "VERSION", "RELEASE", "SUITES", "DOWNLOAD", "CACHED", box=None)
    for row in rows:
        size = megabytes(row.bytes) if row.complete else "no modules"
        version = row.version if row.flavour in FLAVOURS else "own"
        cells = (row.spec, version, row.release, " ".join(row.suites), size)
        table.add_row(*cells, "yes" if row.cached else "")
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
    for note in notes:
        click.echo(f"note: {note}", err=True)


@kernels.command("fetch")
@click.argument("specs", metavar="SPEC...", nargs=-1)
@click.option("--refresh", is_flag=True, help="Ask the archive what the newest build is now.")
@LOCKED
def fetch_command(specs: tuple[str, ...], refresh: bool, lock: Lock | None) -> None:
    """Bring kernels into the cache; with --locked and no SPEC, all that are locked.

    One file at a time comes from each mirror. Whatever ends it, the next fetch goes on from there.

    \b
    Examples:
      cpumap-lab kernels fetch debian:6.12 debian:7.3-rt
      cpumap-lab kernels fetch --locked
    """  # noqa: D301
    names = specs or (tuple(lock.pins) if lock else ())
    if not names:
        raise click.UsageError("give SPEC..., or --locked for all that are locked")
    if refresh and lock:
        raise click.UsageError("--locked takes what is locked, --refresh what is newest: give one")
    pins = {name: lock.pin(name) for name in names} if lock else {}
    with shown() as progress:
        images = [
            resolve(name, refresh=refresh, pin=pins.get(name), progress=progress) for name in names
        ]
    for image in images:
        click.echo(f"{image.spec}\t{image.release}\t{image.version}\t{image.boot}")


@kernels.command("show")
@click.argument("specs", metavar="SPEC...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show_command(specs: tuple[str, ...], as_json: bool) -> None:
    """Say what kernels are, and where each part of them was found; fetches what is not here.

    \b
    Examples:
      cpumap-lab kernels show debian:6.12
      cpumap-lab kernels show tree:~/linux installed deb:linux-image-6.12.1_amd64.deb
    """  # noqa: D301
    with shown() as progress:
        images = [resolve(spec, progress=progress) for spec in specs]
    if as_json:
        click.echo(json.dumps([facts_of(image) for image in images], indent=1))
        return
    for number, image in enumerate(images):
        if number:
            click.echo()
        for what, told in facts_of(image).items():
            for line in told if isinstance(told, list) else [told]:
                click.echo(f"{what:<10}{line}")
                what = ""  # noqa: PLW2901 - named once


@kernels.command("prune")
@click.argument("specs", metavar="[SPEC...]", nargs=-1)
@click.option("--keep", type=click.IntRange(0), help="Builds to keep of each series (1).")
@click.option("--all", "everything", is_flag=True, help="Remove all.")
@click.option("--dry-run", is_flag=True, help="Remove nothing: say what would be.")
def prune_command(
    specs: tuple[str, ...], keep: int | None, everything: bool, dry_run: bool
) -> None:
    """Remove kernels from the cache: those named, or all but the newest of each series.

    Without SPEC, sources and builds go as well, but the last used of each; what is being built
    stays. All of it is brought, or built, again when it is needed.

    \b
    Examples:
      cpumap-lab kernels prune --dry-run
      cpumap-lab kernels prune --keep 2
      cpumap-lab kernels prune debian:6.16 build:~/linux@v6.12
    """  # noqa: D301
    if (bool(specs), keep is not None, everything).count(True) > 1:
        raise click.UsageError("give SPEC... or --keep or --all, not several of them")
    keep = 0 if everything else 1 if keep is None else keep
    gone = prune(specs, keep=keep, dry_run=dry_run)
    trees = [] if specs else prune_trees(keep=keep, dry_run=dry_run)
    done = "would remove" if dry_run else "removed"
    for kernel in gone:
        click.echo(f"{done} {kernel.release}\t{kernel.version}\t{megabytes(kernel.size)}")
    for tree in trees:
        click.echo(f"{done} the {tree.kind} {tree.directory.name}\t{megabytes(tree.size)}")
    freed = sum(kernel.size for kernel in gone) + sum(tree.size for tree in trees)
    click.echo(f"{len(gone)} kernels, {len(trees)} sources and builds, {megabytes(freed)}")


def rows_of(builds: Sequence[Build], here: Sequence[Cached]) -> list[Row]:
    """Return a row for each build in the archive or the cache, oldest first."""
    places = {(kernel.release, kernel.version): str(kernel.directory) for kernel in here}
    known = {(build.release, build.version) for build in builds}
    gone = [kernel for kernel in here if (kernel.release, kernel.version) not in known]
    return [
        *(
            Row(k.spec, k.release, k.version, k.flavour, (), 0, True, str(k.directory))
            for k in gone
        ),
        *(
            Row(
                *(_shortest(build, builds), build.release, build.version, build.flavour),
                *(build.suites, build.size, build.complete),
                places.get((build.release, build.version)),
            )
            for build in builds
        ),
    ]


def newest(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Return the newest complete build of each series and flavour, and the series without one.

    What is in the cache is always kept.
    """
    last: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.complete and row.flavour in FLAVOURS:
            last[series_of(row.version), row.flavour] = row
    kept = [row for row in rows if row.cached or row in last.values()]
    whole = {series for series, _ in last}
    broken = dict.fromkeys(series_of(row.version) for row in rows if not row.complete)
    return kept, [series for series in broken if series not in whole]


def _shortest(build: Build, builds: Sequence[Build]) -> str:
    if build.complete:
        for version in (series_of(build.version), upstream_of(build.version)):
            spec = DebianSpec(version, build.flavour)
            if choose(spec, builds) == build:
                return str(spec)
    return f"debian:{build.release}"
