"""`cpumap-lab kernels build`: from a source tree to a kernel that cases run on."""

from __future__ import annotations

from pathlib import Path

import click

from harness.kernels.build import build_kernel, output_of
from harness.kernels.kconfig import debug_names, own_fragments, read_fragment
from harness.kernels.source import NEWEST, fetch_source
from harness.progress import shown


@click.command("build")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--source", metavar="SPEC", help="Debian's source: debian:7.3, debian:7.3.4.")
@click.option(
    "--debug",
    multiple=True,
    type=click.Choice(debug_names()),
    help="A debug feature of the kernel; repeatable.",
)
@click.option(
    "--config",
    "configs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A configuration fragment of your own, which has the last word; repeatable.",
)
@click.option("--jobs", type=click.IntRange(1), help="What make does at a time (the CPUs).")
def build_command(
    directory: Path | None,
    source: str | None,
    debug: tuple[str, ...],
    configs: tuple[Path, ...],
    jobs: int | None,
) -> None:
    """Build a kernel, of the tree in DIR or (without) of Debian's newest linux-source package.

    It is small and quick to boot: the fragment configs/kconfig/minimal.config over the tree's own
    allnoconfig, and those of the debug features. It is built out of tree, into the cache, and only
    what has changed is built again. The last line is the spec to run it by.

    \b
    Examples:
      cpumap-lab kernels build
      cpumap-lab kernels build ~/linux
      cpumap-lab kernels build --debug kasan --debug lockdep
      cpumap-lab kernels build --source debian:6.12 --debug gcov --debug failslab
      pytest cases --kernel "$(cpumap-lab kernels build ~/linux)"

    What it takes beside a compiler, `ci/setup --kernels` installs.
    """  # noqa: D301 - click takes a real \b for "do not wrap"
    if directory and source:
        raise click.UsageError("give DIR or --source, not both")
    own = tuple(read_fragment(path) for path in configs)
    fragments = (*own_fragments(debug), *own)
    with shown() as progress:
        tree = directory or fetch_source(source or NEWEST, progress=progress)
    with shown() as progress:
        output = output_of(tree, fragments)
        built = build_kernel(tree, fragments, output, jobs=jobs, progress=progress)
    # Of the minimal fragment, each tree has what its time had.
    special = {name for fragment in fragments[1:] for name in fragment.options}
    refused = [option for option in built.refused if option.partition("=")[0] in special]
    if refused:
        click.echo(f"note: this tree lacks, or sets otherwise, {', '.join(refused)}", err=True)
    click.echo(f"path:{built.image}")
