"""What was found out about a guest that kept the lab waiting, and the class that follows. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.machine.hang.sysrq import CPUMAP, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.machine.hang.host import Share
    from harness.machine.hang.sysrq import Task
    from harness.machine.hang.vcpus import Registers

AGENT = "init"
"""The comm of the agent and its threads."""
BUSY = 0.9
"""Of the time, that the thread of a virtual CPU ran or would have: of one that spins, it is all;
on a busy host, much of one that has a little to do now and then."""
LONG_S = 10.0
"""A life of QEMU's that tells whether the host starves it: it begins with the work of a start."""
STOPPED = "Tt"
"""States of a process that a signal, or a debugger, has stopped."""
TOLD = 4
"""Tasks, or CPUs, that are told of in one line."""


class Kind(enum.StrEnum):
    """Why a guest keeps the lab waiting.

    `GUEST_IDLE`: its CPUs sleep: what was waited for does not come by itself.
    `GUEST_SPINNING`: CPUs of it run without an end.
    `AGENT_DEAD`: its kernel lives; its agent does not answer, and not because the kernel keeps it.
    `QEMU_DEAD`: QEMU has ended, or does not answer, or has stopped the guest.
    `HOST_STARVED`: QEMU does not get to run.
    """

    GUEST_IDLE = "guest idle"
    GUEST_SPINNING = "guest spinning"
    AGENT_DEAD = "agent dead"
    QEMU_DEAD = "QEMU dead"
    HOST_STARVED = "host starved"

    @property
    def in_guest(self) -> bool:
        """Whether the guest itself can be asked for more."""
        return self not in (Kind.QEMU_DEAD, Kind.HOST_STARVED)


@dataclass(frozen=True, slots=True)
class Vcpu:
    """A virtual CPU, looked at twice.

    Attributes:
        registers: both times.
        places: where its instruction pointer was, by name if names are known.
        ran: part of the time between that its thread ran.
        wanted: part of it that its thread ran or would have.
        stack: what may be its calls, by name.
    """

    registers: tuple[Registers, Registers]
    places: tuple[str, str]
    ran: float
    wanted: float
    stack: Sequence[str] = ()

    @property
    def spins(self) -> bool:
        """Whether it runs without an end."""
        return self.wanted >= BUSY and not any(each.halted for each in self.registers)


@dataclass(slots=True, kw_only=True)
class Findings:
    """What was found out, as far as that came.

    Attributes:
        waited_for: what the lab gave up waiting for.
        booting: whether there is no agent yet.
        ended: how QEMU ended; "" if it runs.
        state: of QEMU's main thread, as in proc(5).
        pressure: how busy the host is.
        life, window: what QEMU has had of the host since it began, and between the two looks.
        mute: what is wrong with QEMU's monitor; "" if it answers.
        run_state: what QEMU says of the guest.
        vcpus: by number.
        answers: whether the agent answers.
        heard: whether the kernel has printed backtraces.
        console: all that it printed when it was asked.
        cpus: what each CPU ran then.
        tasks: those that it told of.
        threads: the agent's, and cpumap's, as /proc tells of them.
    """

    waited_for: str
    booting: bool = False
    ended: str = ""
    state: str = ""
    pressure: str = ""
    life: Share | None = None
    window: Share | None = None
    mute: str = ""
    run_state: str = "running"
    vcpus: Mapping[int, Vcpu] = field(default_factory=dict)
    answers: bool = False
    heard: bool = False
    console: str = ""
    cpus: Mapping[int, Task] = field(default_factory=dict)
    tasks: Sequence[Task] = ()
    threads: Sequence[Task] = ()

    @property
    def blocked(self) -> list[Task]:
        """The tasks that wait without heeding signals, and what else the agent waits in."""
        known = {task.pid: task for task in self.threads if task.comm == AGENT and task.waits}
        known |= {task.pid: task for task in self.tasks if task.state == "D"}
        return sorted(known.values(), key=lambda task: (task.comm != AGENT, task.pid))

    @property
    def spinning(self) -> list[int]:
        """The CPUs that run without an end."""
        return [cpu for cpu, vcpu in self.vcpus.items() if vcpu.spins]


@dataclass(frozen=True, slots=True)
class Hang:
    """Why a guest kept the lab waiting.

    Attributes:
        kind: the class.
        why: in one line.
        in_cpumap: the function of cpumap.c in which the kernel keeps the lab waiting, if it does.
        text: all that was found out.
    """

    kind: Kind
    why: str
    in_cpumap: str = ""
    text: str = ""

    @property
    def summary(self) -> str:
        """Class and reason, in one line."""
        return f"{self.kind}: {self.why}"


def classify(found: Findings) -> Hang:
    """Return the class and the reason for it."""
    if found.ended:
        return Hang(Kind.QEMU_DEAD, found.ended)
    if found.state and found.state in STOPPED:
        why = "QEMU is stopped, by a signal or a debugger: it does not run at all"
        return Hang(Kind.HOST_STARVED, why)
    if found.run_state != "running":
        return Hang(Kind.QEMU_DEAD, f"it does not run the guest, whose state is {found.run_state}")
    now = None if found.answers else found.window
    for share, least_s in ((now, 0.0), (found.life, LONG_S)):
        if share and share.span_s >= least_s and share.starved:
            return Hang(Kind.HOST_STARVED, f"QEMU {share}")
    if found.mute:
        return Hang(Kind.QEMU_DEAD, f"{found.mute} (its main thread's state is {found.state})")
    if found.spinning:
        return _spinning(found)
    if found.answers or found.booting:
        return Hang(Kind.GUEST_IDLE, f"{_idle(found)}{_told_of_blocked(found)}", _keeps(found))
    if any(task.comm == AGENT for task in found.blocked):
        return Hang(Kind.GUEST_IDLE, f"no CPU runs{_told_of_blocked(found)}", _keeps(found))
    return Hang(Kind.AGENT_DEAD, _told_of_agent(found))


def _spinning(found: Findings) -> Hang:
    same: dict[str, list[int]] = {}
    keeps = ""
    for cpu in found.spinning:
        vcpu, task = found.vcpus[cpu], found.cpus.get(cpu)
        same.setdefault(_running(vcpu, task), []).append(cpu)
        keeps = keeps or _spins_in_cpumap(vcpu, task)
    told = [f"CPU {', '.join(map(str, cpus))}: {what}" for what, cpus in same.items()]
    more = [f"{len(told) - TOLD} more"] if len(told) > TOLD else []
    return Hang(Kind.GUEST_SPINNING, "; ".join([*told[:TOLD], *more]), keeps)


def _running(vcpu: Vcpu, task: Task | None) -> str:
    who = f"{task.comm} (pid {task.pid}) runs" if task else "runs"
    whose = "user code" if all(each.user for each in vcpu.registers) else "the kernel"
    place, then = vcpu.places
    if task and task.place and "+" not in place + then:
        return f"{who} {whose}, in {task.place}"
    return f"{who} {whose} at {place}" + (f", then at {then}" if then != place else "")


def _spins_in_cpumap(vcpu: Vcpu, task: Task | None) -> str:
    """Return the function of cpumap.c that a CPU does not leave; one that it calls is no matter."""
    seen = [plain(place.partition("+")[0]) for place in vcpu.places if "+" in place]
    if task and not seen:
        seen = [plain(frame) for frame in task.frames[:1]]
    return seen[0] if seen and all(CPUMAP.fullmatch(function) for function in seen) else ""


def _idle(found: Findings) -> str:
    return "no CPU runs" if found.booting else "the agent answers and no CPU runs"


def _told_of_blocked(found: Findings) -> str:
    tasks = found.blocked
    told = [f"{task} waits" for task in tasks[:TOLD]]
    more = [f"{len(tasks) - TOLD} more tasks wait"] if len(tasks) > TOLD else []
    return "".join(f"; {each}" for each in (*told, *more))


def _keeps(found: Findings) -> str:
    """Return the function of cpumap.c in which a call of the agent's waits."""
    waits = (task.in_cpumap for task in found.blocked if task.comm == AGENT)
    return next(filter(None, waits), "")


def _told_of_agent(found: Findings) -> str:
    kernel = "its kernel answers, " if found.heard else "its kernel does not answer either, "
    agents = [task for task in found.tasks if task.comm == AGENT]
    told = ", ".join(f"{task}, state {task.state}" for task in agents[:TOLD])
    return f"{kernel}no CPU runs" + (f"; {told}" if told else "")
