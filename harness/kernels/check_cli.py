"""`cpumap-lab kernels check`: can a kernel run the cases, and which of them, without booting it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from harness.kernels.examine import NEEDED, lacking, options_in, unfit
from harness.kernels.store import resolve
from harness.progress import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.kernels.image import KernelImage


@click.command("check")
@click.argument("specs", metavar="SPEC...", nargs=-1, required=True)
def check_command(specs: tuple[str, ...]) -> None:
    """Say what kernels lack, by feature, and what that costs; nothing is booted.

    The configuration is taken from the file beside the kernel, from its package, or out of the
    kernel itself (CONFIG_IKCONFIG). The exit status is 1 if no guest comes up on one of them.

    \b
    Examples:
      cpumap-lab kernels check debian:6.12
      cpumap-lab kernels check tree:$HOME/linux path:arch/x86/boot/bzImage
    """  # noqa: D301
    from harness.contract.claims import options_wanted  # noqa: PLC0415 - pytest takes a second
    from harness.contract.table import collect_cases  # noqa: PLC0415

    with shown() as progress:
        images = [resolve(spec, progress=progress) for spec in specs]
    wanted = [options_wanted(item) for item in collect_cases()]
    for image in images:
        click.echo(f"{image.spec} ({image.release})")
        for line in findings(image, wanted):
            click.echo(f"  {line}")
    click.get_current_context().exit(int(any(unfit(image) for image in images)))


def findings(kernel: KernelImage, wanted: Iterable[Sequence[str]]) -> list[str]:
    """Return what a kernel lacks, a line for each thing.

    Args:
        kernel: the kernel.
        wanted: the options that each case wants.
    """
    if options_in(kernel) is None:
        return [
            "nothing tells its configuration: no file beside it, no CONFIG_IKCONFIG in it",
            f"it needs {', '.join(NEEDED)}",
        ]
    lines = [f"no guest comes up without {fault}" for fault in unfit(kernel)]
    skipped = Counter(option for names in wanted for option in lacking(kernel, names)[:1])
    lines += [
        f"no {option}: {count} case{'s' if count > 1 else ''} will be skipped"
        for option, count in skipped.items()
    ]
    return lines or ["has all that the cases want"]
