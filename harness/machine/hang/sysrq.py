"""The kernel asked for backtraces: by its agent, or by a break on its serial line.

Documentation/admin-guide/sysrq.rst. The console shows all of it at log level 8. A kernel that does
not hear the serial line (no CPU takes interrupts) may still take an NMI, and says so.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.patience import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from harness.agent.syscalls import Syscalls
    from harness.machine.console import Console
    from harness.machine.hang.vcpus import Ask

HEARD = {
    "8": "Loglevel set to 8",
    "l": "Show backtrace of all active CPUs",
    "w": "Show Blocked State",
    "t": "Show State",
    "6": "Changing Loglevel",
}
"""What the console shows of each key when the kernel has taken it (drivers/tty/sysrq.c)."""
LOUD, QUIET = "8", "6"
"""The keys that have the console show all, and again what it shows otherwise."""
KEY_S, ALL_S, UNHEARD_S = 2.0, 4.0, 0.2
"""What a key, all that they make the kernel print, and a key after one that was not shown take."""
POLL_S = 0.02
STAMP = r"^(?:<\d>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? "
FRAME = re.compile(STAMP + r" +(\? )?([\w.]+)\+0x[0-9a-f]+/0x[0-9a-f]+")
PROC_FRAME = re.compile(r"\[<.*>\] ([\w.]+)\+0x")
"""A line of /proc/PID/stack."""
RIP = re.compile(STAMP + r"RIP: 0010:([\w.]+)\+0x")
CPU = re.compile(STAMP + r"CPU: (\d+) (?:UID: \d+ )?PID: (\d+) Comm: (.+?) (?:Not t|T)ainted")
TASK = re.compile(STAMP + r"task:(.{1,15}?) +state:(\S).*? pid: *(\d+)")
ASLEEP = re.compile(
    r"_*(schedule|mutex|rwsem|rt_mutex|rtlock|wait_|down|io_schedule|context_switch|flush_work|"
    r"cancel_.*work|synchronize_|rcu_barrier|wait_rcu|msleep|swait|percpu_down|do_wait_|"
    r"exp_funnel|poll_schedule|futex_)"
)
"""Functions that say that a task waits, not for what."""
AT_REST = ("proc_pid_stack", "do_futex", "do_sys_poll")
"""Functions that a thread of the agent is in while it waits for orders, or is asked for these."""
CPUMAP = re.compile(r"_*(get_|put_)?cpu_map_\w+")
"""Functions of kernel/bpf/cpumap.c, and of no other file."""


@dataclass(slots=True)
class Task:
    """A task in a backtrace.

    Attributes:
        comm, pid: of it.
        state: "D", "S", … ("R" of one that a CPU runs).
        frames: the functions that it is in, the last called first.
    """

    comm: str
    pid: int
    state: str
    frames: list[str] = field(default_factory=list)

    @property
    def place(self) -> str:
        """The function of cpumap.c that it is in, or what waits; "" if that is not known."""
        if known := self.in_cpumap:
            return known
        return next((frame for frame in self.frames if not ASLEEP.match(frame)), "")

    @property
    def in_cpumap(self) -> str:
        """The function of cpumap.c that it is in; "" if it is in none."""
        return next((frame for frame in self.frames if CPUMAP.fullmatch(plain(frame))), "")

    @property
    def waits(self) -> bool:
        """Whether it is in a system call, and not only waiting for its next order."""
        return bool(self.place) and not any(frame in AT_REST for frame in self.frames)

    def __str__(self) -> str:
        where = f" in {self.place}" if self.place else ""
        return f"{self.comm} (pid {self.pid}){where}"


def plain(function: str) -> str:
    """Return a function's name without what compilers append (.constprop.0, .isra.0, .cold)."""
    return function.partition(".")[0]


def parse_tasks(text: str) -> list[Task]:
    """Return the tasks of `sysrq-w` or `sysrq-t`."""
    tasks: list[Task] = []
    for line in text.splitlines():
        if found := TASK.match(line):
            tasks.append(Task(found[1], int(found[3]), found[2]))
        elif tasks and (frame := FRAME.match(line)) and not frame[1]:
            tasks[-1].frames.append(frame[2])
    return tasks


def parse_cpus(text: str) -> dict[int, Task]:
    """Return what each CPU ran, from `sysrq-l`."""
    found: dict[int, Task] = {}
    now: Task | None = None
    for line in text.splitlines():
        if about := CPU.match(line):
            now = found[int(about[1])] = Task(about[3], int(about[2]), "R")
        elif TASK.match(line):
            now = None
        elif now and (place := RIP.match(line)):
            # of what an NMI came upon; the frames before are those of the NMI itself
            now.frames = [place[1]]
        elif now and (frame := FRAME.match(line)) and not frame[1]:
            now.frames.append(frame[2])
    return found


def parse_stack(text: str) -> list[str]:
    """Return the functions of /proc/PID/stack, the last called first."""
    return [found[1] for found in map(PROC_FRAME.match, text.splitlines()) if found]


def ask_by_agent(calls: Syscalls, console: Console, keys: str) -> str:
    """Have the agent press keys and return what the console shows of them."""
    before = console.ask()
    for key, limit_s in _presses(keys):
        mark = len(console.text())
        calls.link.call("write", "/proc/sysrq-trigger", key.encode(), task=calls.task)
        _wait(console, mark, HEARD[key], limit_s)
    return console.text()[before:]


def ask_by_serial(ask: Ask, console: Console, keys: str, fifo: Path) -> str:
    """Send keys to the serial line, each after a break, and return what the console shows.

    A kernel that shows none of it is sent an NMI. It may have taken the keys, and have no CPU left
    for the thread that prints (8250 has one from 7.3 on): then its memory holds what it would say.
    """
    before = console.ask()
    os.mkfifo(fifo)
    line = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        ends = {"in": str(fifo), "out": str(console.path), "append": True}
        ask("chardev-change", {"id": "console", "backend": {"type": "file", "data": ends}})
        heard = True
        for key, limit_s in _presses(keys):
            mark = len(console.text())
            ask("chardev-send-break", {"id": "console"})
            os.write(line, key.encode())
            heard = _wait(console, mark, HEARD[key], limit_s if heard else UNHEARD_S)
        if not heard:
            ask("inject-nmi", {})
            _wait(console, mark, "NMI", UNHEARD_S)
    finally:
        os.close(line)
        fifo.unlink()
    return console.text()[before:]


def _presses(keys: str) -> list[tuple[str, float]]:
    """Return the keys to press, and how long to wait until the console shows each.

    A console with a thread of its own (8250 from 7.3 on) prints at the log level of when it prints:
    it is not lowered before a second LOUD, which comes after all that the keys have to say.
    """
    return [(key, KEY_S) for key in LOUD + keys] + [(LOUD, ALL_S), (QUIET, KEY_S)]


def _wait(console: Console, start: int, mark: str, limit_s: float) -> bool:
    return wait_until(lambda: mark in console.text()[start:], limit_s, poll_s=POLL_S)
