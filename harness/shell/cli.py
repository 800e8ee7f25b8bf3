"""`cpumap-lab shell`: a prompt in a fresh guest, or in the one that a failed run left."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.agent.syscalls import Syscalls
from harness.errors import AgentLost, ToolMissing, UserError
from harness.frozen import read_frozen, resume
from harness.lab import Lab
from harness.machine.topology import MAX_CPUS, MIN_MEMORY_MIB, Topology
from harness.phases import Phases
from harness.shell import banner, gdb, terminal
from harness.shell.session import Session, find_silence
from harness.toolbox import BPFTOOL, BUSYBOX, fetch_tool, install_shell, pack, upload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.machine.machine import Machine

ANSWER_S = 5.0
"""What the agent of a guest may take to answer, at pace 1; one that failed may be hung."""
WAIT_S = 0.2


@click.command("shell")
@click.option("--failed", metavar="RUN", type=click.Path(path_type=Path), help="A run that failed.")
@click.option("--kernel", metavar="SPEC", help="A kernel, for a fresh guest.")
@click.option("--cpus", metavar="N", type=click.IntRange(1, MAX_CPUS), help="Of a fresh guest: 4.")
@click.option("--memory", metavar="MIB", type=click.IntRange(MIN_MEMORY_MIB), help="Its RAM: 512.")
@click.option("--nics", metavar="N", type=click.IntRange(0, 8), help="Its NICs: 1.")
@click.option("--append", metavar="ARGS", help="Add to its kernel command line.")
@click.option("--ssh", "with_ssh", is_flag=True, help="Start an sshd in it; say how to log in.")
@click.option("--gdb", "with_gdb", is_flag=True, help="Open QEMU's gdb stub; print gdb's line.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(
    failed: Path | None,
    kernel: str | None,
    cpus: int | None,
    memory: int | None,
    nics: int | None,
    append: str | None,
    with_ssh: bool,
    with_gdb: bool,
    command: tuple[str, ...],
) -> None:
    """Give a prompt in a guest: a fresh one, or one as a failed run left it.

    RUN is a directory of results (or its name in the cache). Its guest is resumed just as it was
    frozen, in a copy: nothing of the run is changed, and many can look at it at the same time.

    A COMMAND is run by the guest's shell instead; so is standard input, if it is no terminal. The
    exit status is the command's then.

    \b
    Examples:
      cpumap-lab shell --kernel debian:7.3 --cpus 8
      cpumap-lab shell --failed ~/.cache/cpumap-lab/results/20260301T101500Z-quickstart-...
      cpumap-lab shell --failed RESULTS -- bpftool map show
      cpumap-lab shell --failed RESULTS --gdb
      cpumap-lab shell --kernel debian:6.1 -- 'dmesg | grep -c XDP'
    """  # noqa: D301
    if (failed is None) == (kernel is None):
        raise UserError(
            "a guest is of a run that failed, or fresh",
            remedy="give --failed RUN or --kernel SPEC, one of them",
        )
    given = {"cpus": cpus, "memory_mib": memory, "nics": nics, "append": append}
    wanted = {name: value for name, value in given.items() if value is not None}
    if failed is not None and wanted:
        raise UserError(
            "a run that failed brings its own guest",
            remedy="leave out --cpus, --memory, --nics and --append",
        )
    is_interactive = not command and sys.stdin.isatty() and sys.stdout.isatty()
    with contextlib.ExitStack() as undo:
        phases = undo.enter_context(Phases(sys.stderr))
        lab = Lab(say=phases.begin, progress=phases.fetch)
        if failed is not None:
            frozen = read_frozen(failed)
            failed = frozen.directory
            phases.begin(f"resuming the guest of {failed.name}")
            machine = undo.enter_context(resume(frozen, lab))
        else:
            topology = Topology(**wanted, ssh=with_ssh)  # type: ignore[arg-type]
            phases.begin(f"cloning a guest of {kernel}")
            machine = undo.enter_context(lab.open(str(kernel), topology).own)
        phases.begin("looking for what goes into the guest")
        wish = Wish(with_ssh, with_gdb, is_interactive)
        status = enter(machine, failed, command, phases, wish)
    click.get_current_context().exit(status)


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants of a guest: an sshd, a gdb stub, a prompt."""

    ssh: bool
    gdb: bool
    prompt: bool


def enter(
    machine: Machine, failed: Path | None, command: Sequence[str], phases: Phases, wish: Wish
) -> int:
    """Prepare a guest for a person, and let them in.

    Args:
        machine: that runs it.
        failed: the results of the run that it is of; None for a fresh one.
        command: to be run in it; none is a prompt, or standard input.
        phases: told what goes on.
        wish: what is wanted.

    Returns:
        The exit status of the command, or of the shell.

    Raises:
        AgentLost: the guest does not answer, or ends.
    """
    if silence := _find_silence(machine):
        return _show_silent(machine, failed, silence, phases, wish)
    lines: list[str] = []
    has_bpftool = _install(machine, phases, lines)
    if wish.ssh:
        from harness.sshd import open_door  # noqa: PLC0415 - paramiko takes a while to import

        phases.begin("starting the guest's sshd")
        lines.append(f"ssh:     {open_door(machine, progress=phases.fetch).line}")
    if wish.gdb:
        stub = gdb.open_stub(machine)
        phases.begin("reading the kernel's symbols")
        lines += gdb.tell(machine.kernel, gdb.ask_symbols(machine.link), stub)
    phases.end()
    if wish.prompt:
        lines = [*banner.tell(machine.recipe, failed, bpftool=has_bpftool), *lines]
    _echo(lines)
    return _converse(machine, command, is_interactive=wish.prompt)


def _find_silence(machine: Machine) -> str:
    """Return why a guest gives no prompt; "" if it does."""
    if machine.ended:
        return f"{machine.ended}, and cannot run on"
    return find_silence(machine.link, ANSWER_S * machine.pace)


def _show_silent(
    machine: Machine, failed: Path | None, silence: str, phases: Phases, wish: Wish
) -> int:
    """Show what there is of a guest that gives no prompt, and keep it for a debugger if wanted.

    Raises:
        AgentLost: no debugger is wanted.
    """
    console = _read_console(failed) if failed else machine.console.text()
    phases.end()
    _echo(banner.tell_silent(machine.recipe, failed, console))
    if not wish.gdb:
        raise AgentLost(
            f"the guest gives no prompt: {silence}",
            remedy="look at its CPUs and its memory from outside: --gdb",
        )
    _echo(gdb.tell(machine.kernel, gdb.heard_symbols(console), gdb.open_stub(machine)))
    click.echo(f"no prompt: {silence}; Ctrl-C ends the guest", err=True)
    return _wait_end(machine)


def _read_console(failed: Path) -> str:
    """Return what the guest of a failed run had printed; "" if that is not there."""
    try:
        return (failed / "console.log").read_text("utf-8", "replace")
    except OSError:  # somebody has tidied up
        return ""


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line, err=True)


def _converse(machine: Machine, command: Sequence[str], *, is_interactive: bool) -> int:
    session = Session(machine.link)
    try:
        if is_interactive:
            session.start_on_terminal(terminal.size(), terminal.kind())
            if not terminal.attend(session):
                return 0
        else:
            session.start_command(" ".join(command) or f"exec {BUSYBOX.target} sh")
            terminal.relay(session)
        return session.wait()
    except AgentLost as error:
        end = machine.ended
        if not end and machine.process.wait(1) is not None:
            end = machine.process.failure()
        if not end:
            raise
        raise AgentLost(f"{end}: {machine.console.tail(3) or error.message}") from error


def _install(machine: Machine, phases: Phases, notes: list[str]) -> bool:
    """Put a shell into a guest, and bpftool if there is one; return whether there is."""
    tools = [(BUSYBOX, fetch_tool(BUSYBOX, progress=phases.fetch))]
    try:
        tools.append((BPFTOOL, fetch_tool(BPFTOOL, progress=phases.fetch)))
    except ToolMissing as error:
        notes.append(f"note: {error}")
    phases.begin("bringing tools into the guest")
    calls = Syscalls(machine.link)
    upload(calls, pack(tools))
    install_shell(calls)
    return len(tools) > 1


def _wait_end(machine: Machine) -> int:
    """Keep a guest that gives no prompt, for a debugger, until it ends or the person ends it."""
    while machine.process.wait(WAIT_S) is None:
        pass
    return 0
