"""The command line: `cpumap-lab`, its commands, and how every error of theirs ends."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from typing import NoReturn

import click

from harness.errors import LabError

COMMANDS = {
    "run": ("harness.scenario.cli", "Run scenarios and judge them."),
    "check": ("harness.scenario.cli", "Check scenarios without running them."),
    "matrix": ("harness.matrix.cli", "Run the cases on many kernels and print a grid."),
    "rerun": ("harness.scenario.cli", "Repeat a run, and say what has changed since."),
    "diff": ("harness.scenario.cli", "Compare two runs, and say what was not the same."),
    "shell": (
        "harness.shell.cli",
        "Give a prompt in a guest: a fresh one, or one as a failed run left it.",
    ),
    "schema": (
        "harness.scenario.cli",
        "Print the JSON Schema of scenarios, for editors that complete and check keys.",
    ),
    "bisect": (
        "harness.bisect.cli",
        "Find the kernel package, or the commit, that changed how SUBJECT ends.",
    ),
    "bisect-step": (
        "harness.bisect.step",
        "Build the kernel tree that this is run in, boot it, and judge it by SUBJECT.",
    ),
    "kernels": (
        "harness.kernels.cli",
        "List, fetch, build, show, lock and prune the kernels to test.",
    ),
    "snapshots": (
        "harness.machine.snapshot_cli",
        "List and prune the frozen guests that runs are cloned from.",
    ),
    "qemu": ("harness.machine.fetch_cli", "Fetch and show the QEMU that runs the guests."),
    "doctor": (
        "harness.doctor",
        "Say what is here, what is missing, what it costs, and what to do about it.",
    ),
    "contract": (
        "harness.contract.cli",
        "Say what cpumap.c does, since when, and which cases prove it.",
    ),
    "coverage": (
        "harness.coverage.cli",
        "Run the cases on a kernel that counts what it runs: which of cpumap.c do they reach?",
    ),
    "mutants": (
        "harness.mutants.cli",
        "Build kernels with one deliberate bug in cpumap.c each, and see the cases fail.",
    ),
    "bench": (
        "harness.bench.cli",
        "Measure boot, clone and traffic here, and say what limits them.",
    ),
}
"""Each command's module and its help in one line: the modules are imported when they are used."""
SIGPIPE_STATUS, SIGINT_STATUS, BUG_STATUS = 141, 130, 125


class Commands(click.Group):
    """The commands, imported when they are used, and the ends that they share."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they are told."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; whatever ends it becomes a message and an exit status."""
        try:
            return super().invoke(ctx)
        except LabError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_status)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(SIGINT_STATUS)
        except BrokenPipeError:
            # What is still buffered goes nowhere, or the interpreter complains when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(SIGPIPE_STATUS)
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # rich leaves with 1, a verdict
                ctx.exit(SIGPIPE_STATUS)
            raise
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception:
            # Python's own status for this is 1, which would be a verdict on the kernel
            traceback.print_exc()
            ctx.exit(BUG_STATUS)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cpumap-lab")
def cpumap_lab() -> None:
    """Integration tests for kernel/bpf/cpumap.c on real kernels, every frame accounted for.

    \b
    Examples:
      cpumap-lab run configs/quickstart.yaml
      cpumap-lab run configs/quickstart.yaml --kernel debian:6.1 --json
      cpumap-lab check configs
      cpumap-lab shell --failed RESULTS
      cpumap-lab matrix
      cpumap-lab bisect mine.yaml --good debian:6.12 --bad debian:7.3
      cpumap-lab kernels list
      cpumap-lab kernels fetch debian:6.12 debian:7.3-rt
      cpumap-lab snapshots prune
      cpumap-lab qemu show
      cpumap-lab contract --json
      cpumap-lab doctor

    Fetched kernels, snapshots and results live in $CPUMAP_LAB_CACHE (by default in cpumap-lab in
    the XDG cache directory).
    """  # noqa: D301 - click takes a real \b for "do not wrap"


def main() -> None:
    """Run the command line, and clean up however it is ended short of SIGKILL."""
    _fill_streams()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    cpumap_lab()


def _fill_streams() -> None:
    """Open what the caller closed of the standard streams, or sockets would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)
