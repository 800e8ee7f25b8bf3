"""`cpumap-lab kernels lock`, and the option `--locked` of all that runs kernels."""

from __future__ import annotations

import click

from harness.kernels.lock import FILE, Lock, read_lock, write_lock
from harness.kernels.spec import parse_spec
from harness.kernels.store import resolve
from harness.progress import shown


def _read(_: click.Context, __: click.Parameter, locked: bool) -> Lock | None:
    return read_lock() if locked else None


LOCKED = click.option(
    "--locked",
    "lock",
    is_flag=True,
    callback=_read,
    help=f"Take no kernels but those in configs/{FILE.name}.",
)


@click.command("lock")
@click.argument("specs", metavar="[SPEC...]", nargs=-1)
def lock_command(specs: tuple[str, ...]) -> None:
    """Hold specs to the newest kernels that they mean now, in configs/kernels.lock.

    Without SPEC, all that are in the file are renewed; if there is no file, it is written for the
    kernels of configs/matrix.yaml. To take one out, delete its lines. `--locked`, of run, matrix,
    pytest and `kernels fetch`, then takes these and refuses all others.

    \b
    Examples:
      cpumap-lab kernels lock
      cpumap-lab kernels lock debian:6.12 path:arch/x86/boot/bzImage
      cpumap-lab kernels fetch --locked && cpumap-lab matrix --locked
    """  # noqa: D301
    names = [str(parse_spec(spec)) for spec in specs] or _standing()
    with shown() as progress:
        kernels = {name: resolve(name, refresh=True, progress=progress) for name in names}
    changes = write_lock(kernels)
    for change in changes:
        click.echo(change)
    click.echo(f"{len(kernels)} kernels locked, {len(changes)} changed")


def _standing() -> list[str]:
    if FILE.exists():
        return list(read_lock().pins)
    from harness.matrix.plan import FILE as MATRIX  # noqa: PLC0415 - a floor above
    from harness.matrix.plan import load_matrix  # noqa: PLC0415

    return [str(parse_spec(spec)) for spec in load_matrix(MATRIX).specs]
