"""Examine a guest that keeps the lab waiting, within some ten seconds, before it is ended."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from harness.agent.syscalls import Syscalls
from harness.agent.threads import own_threads
from harness.errors import GuestError, LabError, QemuFailed
from harness.machine.hang import sysrq
from harness.machine.hang.findings import AGENT, STOPPED, Findings, Hang, Vcpu, classify
from harness.machine.hang.host import Thread, read_load, share_since, tell_pressure
from harness.machine.hang.symbols import Symbols
from harness.machine.hang.tell import tell_hang
from harness.machine.hang.vcpus import Registers, read_registers, read_stack, read_threads

if TYPE_CHECKING:
    from harness.agent.link import Ticket
    from harness.machine.machine import Machine

MONITOR_S = 3.0
"""What a command of QEMU's monitor may take."""
SPAN_S = 1.0
"""Between the two looks at the virtual CPUs."""
LAST_BREATH_S = 1.0
"""What QEMU may take to end after it has closed its monitor."""
PROBE_S = 2.0
"""What the agent may take to answer, after the looks at the virtual CPUs."""
KALLSYMS_S = 5.0
KALLSYMS_BYTES, PROC_BYTES = 64 << 20, 1 << 16
SPARE = 32
"""The agent's last thread, which nobody else uses (guest/agent/task.c)."""
IDLE = Thread("", 0.0, 0.0)


def examine(machine: Machine, waited_for: str, *, booting: bool) -> Hang:
    """Find out why a guest keeps the lab waiting; it runs on afterwards.

    Args:
        machine: its.
        waited_for: what the lab gave up waiting for.
        booting: whether it has no agent yet.
    """
    found = Findings(waited_for=waited_for, booting=booting, pressure=tell_pressure())
    examination = _Examination(machine, found)
    with contextlib.suppress(OSError, LabError):  # QEMU may end at any moment
        examination.carry_out()
    breath_s = LAST_BREATH_S if found.mute or not found.life else 0.0
    if machine.process.wait(breath_s) is not None:
        found.ended = machine.process.failure()
    hang = classify(found)
    return Hang(hang.kind, hang.why, hang.in_cpumap, tell_hang(found, hang))


class _Examination:
    def __init__(self, machine: Machine, found: Findings) -> None:
        self._machine = machine
        self._found = found
        self._pid = machine.process.pid

    def carry_out(self) -> None:
        found = self._found
        before = read_load(self._pid)
        found.life = share_since(None, before)
        found.state = before.threads[self._pid].state
        if found.state in STOPPED:
            return
        probe = self._probe()
        try:
            found.run_state = self._ask("query-status", {})["status"]
            if found.run_state != "running":
                return
            self._look_twice()
        except QemuFailed as error:
            found.mute = error.message
            found.window = share_since(before, read_load(self._pid))
            return
        found.answers = probe is not None and self._has_answered(probe)
        self._hear_kernel(probe)

    def _ask(self, name: str, arguments: dict[str, Any]) -> Any:
        return self._machine.monitor.command(name, arguments, self._paced(MONITOR_S))

    def _paced(self, seconds: float) -> float:
        return seconds * self._machine.recipe.accel.pace

    def _probe(self) -> Ticket | None:
        """Ask the agent something; a thread of it if its main loop is at another thing still."""
        if self._found.booting:
            return None
        for task in (0, SPARE):
            with contextlib.suppress(LabError):
                return self._machine.link.send("read", "/proc/uptime", 64, task=task)
        return None

    def _has_answered(self, probe: Ticket) -> bool:
        try:
            self._machine.link.wait(probe, deadline_s=self._paced(PROBE_S))
        except LabError:
            return False
        return True

    def _look_twice(self) -> None:
        found = self._found
        threads = read_threads(self._ask)
        first = self._look()
        before = read_load(self._pid)  # a virtual CPU that is stopped to be looked at wants nothing
        time.sleep(max(0.0, SPAN_S - (time.clock_gettime(time.CLOCK_BOOTTIME) - before.at)))
        after = read_load(self._pid)
        found.window = share_since(before, after)
        self._ask("stop", {})
        try:
            second = read_registers(self._ask)
            both = {cpu: (first[cpu], second[cpu]) for cpu in first.keys() & second.keys()}
            stacks = {
                cpu: self._stack(cpu, second[cpu])
                for cpu, pair in both.items()
                if not any(each.halted or each.user for each in pair)
            }
            symbols = Symbols("")
            if stacks and not found.window.starved:
                symbols = Symbols(self._kallsyms())
        finally:
            self._ask("cont", {})
        for cpu, pair in sorted(both.items()):
            tid = threads[cpu]
            start, end = before.threads.get(tid, IDLE), after.threads.get(tid, IDLE)
            ran = (end.ran_s - start.ran_s) / found.window.span_s
            waited = (end.waited_s - start.waited_s) / found.window.span_s
            names = symbols.name(pair[0].rip), symbols.name(pair[1].rip)
            stack = symbols.on_stack(stacks.get(cpu, []))
            found.vcpus = {**found.vcpus, cpu: Vcpu(pair, names, ran, ran + waited, stack)}

    def _look(self) -> dict[int, Registers]:
        self._ask("stop", {})
        try:
            return read_registers(self._ask)
        finally:
            self._ask("cont", {})

    def _stack(self, cpu: int, registers: Registers) -> list[int]:
        scratch = self._machine.directory / "stack"
        try:
            return read_stack(self._ask, cpu, registers, scratch)
        except QemuFailed:
            return []
        finally:
            scratch.unlink(missing_ok=True)

    def _kallsyms(self) -> str:
        """Return the names of the guest's functions: a twin of it has the same."""
        if self._machine.twin is None:
            return ""
        try:
            with self._machine.twin() as twin:
                twin.examined = True  # it is no use to examine this one
                limit = self._paced(KALLSYMS_S)
                names: bytes = twin.link.call(
                    "read", "/proc/kallsyms", KALLSYMS_BYTES, deadline_s=limit
                )
                return names.decode("utf-8", "replace")
        except LabError:
            return ""

    def _hear_kernel(self, probe: Ticket | None) -> None:
        """Have the kernel print backtraces, by the way that there is."""
        found, machine = self._found, self._machine
        with contextlib.suppress(LabError):
            if probe and found.answers:
                calls = Syscalls(machine.link, probe.task)
                with machine.link.within(self._paced(PROBE_S)):
                    found.threads = _read_threads(calls)
                    found.console = sysrq.ask_by_agent(calls, machine.console, "lw")
            else:
                fifo = machine.directory / "console.in"
                found.console = sysrq.ask_by_serial(self._ask, machine.console, "lt", fifo)
        found.heard = sysrq.HEARD["l"] in found.console
        found.cpus, found.tasks = (
            sysrq.parse_cpus(found.console),
            sysrq.parse_tasks(found.console),
        )


def _read_threads(calls: Syscalls) -> list[sysrq.Task]:
    """Return where the agent's threads and cpumap's are."""

    def ask(op: str, *args: str | int) -> Any:
        return calls.link.call(op, *args, task=calls.task)

    pids = dict.fromkeys(own_threads(calls), AGENT)
    pids |= {pid: comm for pid, comm in ask("threads", "cpumap/")}
    tasks = []
    for pid, comm in pids.items():
        with contextlib.suppress(GuestError):  # it ended just now
            stat = ask("read", f"/proc/{pid}/stat", PROC_BYTES).decode()
            stack = ask("read", f"/proc/{pid}/stack", PROC_BYTES).decode()
            state = stat.rpartition(")")[2].split()[0]
            tasks.append(sysrq.Task(comm, pid, state, sysrq.parse_stack(stack)))
    return tasks
