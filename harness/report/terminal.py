"""A finished run for the reader at the terminal; plain text for a file or a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.report.record import PAGE
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.report.record import RunRecord

STYLES = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.CRASH: "bold white on red",
    Verdict.INVALID: "bold yellow",
    Verdict.SKIP: "bold cyan",
    Verdict.KNOWN: "bold magenta",
}
_LOSSES = frozenset({"dropped"})


def show_run(
    record: RunRecord,
    *,
    imbalances: Sequence[str] = (),
    socket: Mapping[int, int] | None = None,
    console: Console | None = None,
) -> None:
    """Print a run: where its frames went by CPU, the verdict, and why.

    Args:
        record: the run.
        imbalances: what does not balance, one sentence each.
        socket: frames that reached the socket, by CPU; None when the run has none.
        console: where to; standard output by default.
    """
    console = console or Console()
    head = Text(record.name, style="bold")
    head.append(f"  {_describe_kernel(record)}", style="default")
    _say(console, head)
    if record.per_cpu:
        table = _make_table(record, socket, fancy=console.is_terminal)
        console.print(Padding(table, (0, 0, 0, 2), expand=False))
    if record.ledger is not None:
        _say(console, Text(f"  {_describe_ledger(record.ledger)}"))
    _say(console, Text(f"  {_describe_machine(record)}", style="dim"))
    for number, reason in enumerate(record.reasons):
        verdict = Text(f"{record.verdict.value.upper()}: ", style=STYLES[record.verdict])
        lead = verdict if number == 0 else Text(" " * len(verdict))
        _say(console, lead + Text(reason))
    if not record.reasons:
        _say(console, Text(record.verdict.value.upper(), style=STYLES[record.verdict]))
    told = set(record.reasons)
    for imbalance in imbalances:
        if imbalance not in told:
            _say(console, Text("  - ") + Text(imbalance))
    if record.artifacts is not None:
        _say(console, Text(f"  report: {record.artifacts / PAGE}"))


def _say(console: Console, text: Text) -> None:
    # Soft wrap: a line of a file or a pipe must stay one line for whoever greps it.
    console.print(text, soft_wrap=True)


def _make_table(record: RunRecord, socket: Mapping[int, int] | None, *, fancy: bool) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD if fancy else None,
        show_footer=True,
        footer_style="bold",
        pad_edge=False,
    )
    columns = {
        "enqueued": [cpu.enqueued for cpu in record.per_cpu],
        "dropped": [cpu.dropped for cpu in record.per_cpu],
        "kthread": [cpu.kthread for cpu in record.per_cpu],
        "stack": [cpu.delivered for cpu in record.per_cpu],
    }
    if socket is not None:
        columns["socket"] = [socket.get(cpu.cpu, 0) for cpu in record.per_cpu]
    table.add_column("CPU", "all", justify="right")
    for name, counts in columns.items():
        table.add_column(name, f"{sum(counts):,}", justify="right", no_wrap=True)
    for row, cpu in enumerate(record.per_cpu):
        cells = [Text(str(cpu.cpu))]
        for name, counts in columns.items():
            lossy = name in _LOSSES and counts[row] > 0
            cells.append(Text(f"{counts[row]:,}", style="yellow" if lossy else ""))
        table.add_row(*cells)
    return table


def _describe_kernel(record: RunRecord) -> str:
    release = record.kernel.release
    return record.kernel.spec if release is None else f"{release} ({record.kernel.spec})"


def _describe_machine(record: RunRecord) -> str:
    qemu = record.qemu
    machine = "no QEMU"
    if qemu.version is not None:
        machine = f"QEMU {qemu.version}"
        if qemu.accelerator is not None:
            threads = f", {qemu.threads} thread" if qemu.threads else ""
            machine += f" ({qemu.accelerator}{threads})"
    return f"{machine}, seed {record.seed}, {record.duration_s:.1f} s"


def _describe_ledger(ledger: Mapping[str, int | bool | None]) -> str:
    balanced = "balanced" if ledger.get("balanced") else "NOT balanced"
    accounts = ", ".join(
        f"{name} {count:,}"
        for name, count in ledger.items()
        if name != "balanced" and count is not None and (count or name == "injected")
    )
    return f"books {balanced}: {accounts}" if accounts else f"books {balanced}"
