from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import AgentLost
from harness.judge import Judgement, judge_error, tell_hang
from harness.machine.hang.findings import Findings, Hang, Kind, Vcpu, classify
from harness.machine.hang.host import Share, read_load, share_since, tell_pressure
from harness.machine.hang.symbols import Symbols
from harness.machine.hang.sysrq import Task, parse_cpus, parse_stack, parse_tasks
from harness.machine.hang.tell import tell_hang as tell
from harness.machine.hang.vcpus import Registers, parse_registers
from harness.remains import worth_freezing
from harness.tests.fakes import LATE_S
from harness.verdict import Verdict

WELL = Share(1.0, 1.0, 0.2, 2)
REGISTERS = """\

CPU#0
RAX=0000000000000000 RBX=0000000000000000 RCX=0000000000000003 RDX=0000000000000000
RSI=00000000e2425d00 RDI=000000000000203c RBP=ffffffff83011140 RSP=ffffffff83003dd0
RIP=ffffffff82153c9f RFL=00000216 [----AP-] CPL=0 II=0 A20=1 SMM=0 HLT=1
CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]

CPU#1
RSI=0000000000000000 RDI=0000000000000000 RBP=0000000000000000 RSP=00007ffde82edbb0
RIP=0000000000403f98 RFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=0
"""
OLD = """\
[    5.830000] sysrq: Show backtrace of all active CPUs
[    5.831000] NMI backtrace for cpu 1
[    5.831053] CPU: 1 PID: 92 Comm: init Not tainted 5.10.0-46-cloud-amd64 #1 Debian 5.10.262-1
[    5.831100] Call Trace:
[    5.831120]  dump_stack+0x6b/0x83
[    5.831200] RIP: 0033:0x403f98
[    5.832000] NMI backtrace for cpu 0
[    5.832053] CPU: 0 PID: 7 Comm: kworker/0:1 Tainted: G        W         5.10.0-46-cloud-amd64
[    5.832100] RIP: 0010:cpu_map_kthread_run+0x1d0/0x5f0
[    5.832120] RSP: 0018:ffffc900000b3eb8 EFLAGS: 00010216
[    5.832200]  ? kthread_park+0x80/0x80
[    5.832300]  kthread+0x118/0x140
[    5.840000] NMI backtrace for cpu 2 skipped: idling at native_safe_halt+0xe/0x20
[    5.925118] task:init            state:R  running task     stack:    0 pid:    1 ppid:     0
[    5.925671]  __schedule+0x282/0x870
[    5.925762]  schedule+0x46/0xb0
[    5.925842]  pipe_read+0x2fa/0x400
"""
NEW = """\
[   25.93][  T1] sysrq: Show Blocked State
<6>[   25.938692] task:kworker/2:1     state:D stack:0     pid:59    tgid:59    ppid:2
<6>[   25.939746] Workqueue: events virtnet_rx_mode_work [virtio_net]
<6>[   25.940164] Call Trace:
<6>[   25.940417]  __schedule+0x4b5/0xcf0
<6>[   25.940697]  schedule_preempt_disabled+0x15/0x30
<6>[   25.941163]  __mutex_lock.constprop.0+0x529/0xa40
<6>[   25.941347]  ? psi_group_change+0x19e/0x470
<6>[   25.941562]  virtnet_rx_mode_work+0x95/0x390 [virtio_net]
[   25.941798] task:init            state:D stack:0     pid:143   tgid:1     ppid:0
[   25.942798][  T1]  wait_for_completion+0x95/0x390
[   25.943798][  T1]  __cpu_map_entry_alloc.isra.0+0x95/0x390
[   25.944798][  T1]  cpu_map_update_elem+0x95/0x390
"""


def vcpu(*, spins: bool = True, user: bool = False, at: str = "spin+0x1") -> Vcpu:
    registers = Registers(1 << 63, 1 << 63, user, not spins)
    return Vcpu((registers, registers), (at, at), float(spins), float(spins), ())


def found(**more: object) -> Findings:
    how: dict[str, object] = {"waited_for": "it", "state": "S", "life": WELL, "window": WELL}
    return Findings(**how | {"vcpus": {0: vcpu(spins=False)}} | more)  # type: ignore[arg-type]


# What is read


def test_registers() -> None:
    assert parse_registers(REGISTERS) == {
        0: Registers(0xFFFFFFFF82153C9F, 0xFFFFFFFF83003DD0, user=False, halted=True),
        1: Registers(0x403F98, 0x7FFDE82EDBB0, user=True, halted=False),
    }
    assert parse_registers("nothing of the kind") == {}


def test_what_cpus_run() -> None:
    cpus = parse_cpus(OLD)
    assert {cpu: (task.pid, task.comm) for cpu, task in cpus.items()} == {
        1: (92, "init"),
        0: (7, "kworker/0:1"),
    }
    assert cpus[0].frames == ["cpu_map_kthread_run", "kthread"]
    assert cpus[0].in_cpumap == "cpu_map_kthread_run"


def test_tasks() -> None:
    (init,) = parse_tasks(OLD)
    assert (init.comm, init.pid, init.state, init.place) == ("init", 1, "R", "pipe_read")
    worker, agent = parse_tasks(NEW)
    assert str(worker) == "kworker/2:1 (pid 59) in virtnet_rx_mode_work"
    assert worker.in_cpumap == ""
    assert str(agent) == "init (pid 143) in __cpu_map_entry_alloc.isra.0"
    assert (agent.state, agent.in_cpumap) == ("D", "__cpu_map_entry_alloc.isra.0")
    assert parse_tasks("cpu_map_update_elem+0x1/0x2") == []


def test_a_stack_of_proc() -> None:
    text = "[<0>] do_sys_poll+0x3d6/0x590\n[<ffffffff81001234>] __x64_sys_poll+0xb4/0x170\nend\n"
    assert parse_stack(text) == ["do_sys_poll", "__x64_sys_poll"]


def test_symbols() -> None:
    symbols = Symbols(
        "ffffffff81000000 T _text\n"
        "ffffffff81000100 t work\n"
        "ffffffff82000000 D data\n"
        "ffffffffc0000000 t poll\t[virtio_net]\n"
    )
    base = 0xFFFFFFFF81000000
    assert symbols.name(base + 0x142) == "work+0x42"
    assert symbols.name(base - 1) == f"{base - 1:#x}"
    assert symbols.name(base + 0x100000) == f"{base + 0x100000:#x}"
    assert symbols.name(0xFFFFFFFFC0000010) == "poll [virtio_net]+0x10"
    assert symbols.name(0xFFFFFFFFC0002000) == "0xffffffffc0002000"  # a BPF program's
    words = [0, 0x100, base + 0x100, base + 0x101, 0x7FFD00000000, base + 0x900000]
    assert symbols.on_stack(words) == ["work+0x1"]
    assert not Symbols("")
    assert Symbols("").name(base) == f"{base:#x}"


def test_the_load_of_a_process() -> None:
    start = read_load(os.getpid())
    deadline = time.monotonic() + LATE_S
    while (share := share_since(start, read_load(os.getpid()))).ran_s < 0.02:
        assert time.monotonic() < deadline
    assert share.ran_s <= share.span_s * 2
    life = share_since(None, read_load(os.getpid()))
    assert life.span_s > share.span_s
    assert "load " in tell_pressure()
    with pytest.raises(OSError, match="No such file"):
        read_load(1 << 30)


def test_a_stopped_process() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    try:
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert read_load(child.pid).threads[child.pid].state == "T"
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("ran", "waited", "cpus", "starved"),
    [
        (0.0, 0.0, 2, False),  # it asks for nothing
        (0.02, 0.7, 2, False),  # nor for much
        (1.0, 0.0, 2, False),
        (0.04, 0.96, 2, True),
        (0.1, 0.9, 2, False),
        (2.0, 14.0, 2, False),  # its own 16 threads share two CPUs
        (0.05, 15.95, 2, True),
    ],
)
def test_who_starves(ran: float, waited: float, cpus: int, starved: bool) -> None:
    assert Share(1.0, ran, waited, cpus).starved is starved


# The class that follows


def test_qemu_is_dead() -> None:
    ended = classify(found(ended="QEMU ended with signal SIGKILL: it printed nothing"))
    assert ended.summary == "QEMU dead: QEMU ended with signal SIGKILL: it printed nothing"
    mute = classify(found(mute="QEMU did not answer stop within 3 s", state="D"))
    assert mute.kind is Kind.QEMU_DEAD
    assert mute.why.endswith("(its main thread's state is D)")
    assert classify(found(run_state="internal-error")).kind is Kind.QEMU_DEAD
    assert not Kind.QEMU_DEAD.in_guest


def test_the_host_starves_it() -> None:
    starved = Share(60.0, 2.0, 58.0, 2)
    assert classify(found(state="T", mute="no answer")).kind is Kind.HOST_STARVED
    assert classify(found(life=starved, mute="no answer")).kind is Kind.HOST_STARVED
    young = Share(2.0, 0.05, 1.95, 2)
    assert classify(found(life=young, answers=True)).kind is Kind.GUEST_IDLE
    assert classify(found(window=young)).kind is Kind.HOST_STARVED
    assert classify(found(window=young, answers=True)).kind is Kind.GUEST_IDLE
    assert classify(found(life=starved, run_state="paused")).kind is Kind.QEMU_DEAD
    hang = classify(found(window=starved, vcpus={0: vcpu()}))
    assert hang.summary == (
        "host starved: QEMU ran for 2.0 s and waited 58.0 s for one of 2 CPUs, in 60.0 s"
    )
    assert not hang.kind.in_guest


def test_what_a_busy_host_keeps_waiting_does_not_spin() -> None:
    registers = Registers(1 << 63, 1 << 63, user=False, halted=False)
    slow = Vcpu((registers, registers), ("idle+0x1", "idle+0x1"), 0.05, 0.7)
    assert classify(found(vcpus={0: slow}, answers=True)).kind is Kind.GUEST_IDLE


def test_it_spins() -> None:
    both = {0: vcpu(user=True, at="0x401000"), 2: vcpu(user=True, at="0x401000")}
    idle = {1: vcpu(spins=False), 3: vcpu(at="native_queued_spin_lock_slowpath+0x5")}
    hang = classify(found(vcpus=both | idle, answers=True, cpus={3: Task("ksoftirqd/3", 36, "R")}))
    assert hang.summary == (
        "guest spinning: CPU 0, 2: runs user code at 0x401000; CPU 3: ksoftirqd/3 (pid 36) runs "
        "the kernel at native_queued_spin_lock_slowpath+0x5"
    )
    assert hang.kind.in_guest
    assert hang.in_cpumap == ""


def test_it_spins_in_cpumap() -> None:
    hang = classify(found(vcpus={3: vcpu(at="cpu_map_kthread_run.cold+0x5")}))
    assert hang.in_cpumap == "cpu_map_kthread_run"
    seen = Task("cpumap/3/map:4", 99, "R", ["cpu_map_kthread_run", "kthread"])
    hang = classify(found(vcpus={3: vcpu(at="0xffffffff81001234")}, cpus={3: seen}))
    assert hang.why == "CPU 3: cpumap/3/map:4 (pid 99) runs the kernel, in cpu_map_kthread_run"
    assert hang.in_cpumap == "cpu_map_kthread_run"
    seen.frames.insert(0, "netif_receive_skb_list")  # busy with what it is there for
    assert classify(found(vcpus={3: vcpu(at="0x81001234")}, cpus={3: seen})).in_cpumap == ""
    assert classify(found(vcpus={3: vcpu(at="ip_rcv+0x5")}, cpus={3: seen})).in_cpumap == ""


def test_it_is_idle() -> None:
    hang = classify(found(answers=True, heard=True))
    assert hang.summary == "guest idle: the agent answers and no CPU runs"
    hang = classify(found(booting=True))
    assert hang.summary == "guest idle: no CPU runs"
    waiting = Task("init", 143, "S", ["__do_sys_pause", "do_syscall_64"])
    resting = Task("init", 1, "S", ["poll_schedule_timeout", "do_sys_poll"])
    hang = classify(found(answers=True, tasks=parse_tasks(NEW)[:1], threads=[waiting, resting]))
    assert hang.why == (
        "the agent answers and no CPU runs; init (pid 143) in __do_sys_pause waits; "
        "kworker/2:1 (pid 59) in virtnet_rx_mode_work waits"
    )
    assert hang.in_cpumap == ""


def test_cpumap_keeps_a_call() -> None:
    for answers in (True, False):
        hang = classify(found(answers=answers, heard=True, tasks=parse_tasks(NEW)))
        assert hang.kind is Kind.GUEST_IDLE
        assert hang.in_cpumap == "__cpu_map_entry_alloc.isra.0"
    of_others = [Task("kworker/0:1", 7, "D", ["kthread_stop", "__cpu_map_entry_free"])]
    assert classify(found(answers=True, tasks=of_others)).in_cpumap == ""


def test_many_tasks_are_not_all_told() -> None:
    tasks = [Task("kworker/0:1", pid, "D", ["rtnl_lock"]) for pid in range(9)]
    assert classify(found(answers=True, tasks=tasks)).why.endswith("; 5 more tasks wait")
    at = [vcpu(at=f"f+{cpu:#x}") for cpu in range(9)]
    assert classify(found(vcpus=dict(enumerate(at)))).why.endswith("; 5 more")


def test_the_agent_is_dead() -> None:
    agent = Task("init", 1, "S", ["futex_wait_queue", "do_futex"])
    hang = classify(found(heard=True, tasks=[agent]))
    assert hang.summary == (
        "agent dead: its kernel answers, no CPU runs; init (pid 1) in do_futex, state S"
    )
    assert classify(found()).why == "its kernel does not answer either, no CPU runs"


def test_all_is_told() -> None:
    what = found(
        pressure="load 1.0", vcpus={2: vcpu()}, threads=[Task("init", 1, "D", ["a", "b"])],
        console="[ 1.0] more\n",
    )  # fmt: skip
    told = tell(what, classify(what))
    assert told.startswith("guest spinning: CPU 2: runs the kernel at spin+0x1\nwaited for: it\n")
    assert "CPU 2: its thread ran 100% of the time" in told
    assert re.search(r"^  running at 0x8000000000000000, spin\+0x1;", told, re.MULTILINE)
    assert "init (pid 1), state D: a < b" in told
    assert told.endswith("backtraces:\n[ 1.0] more\n\n")


# What it means for the verdict


def test_a_hang_in_cpumap_is_a_failure() -> None:
    idle, kept = Hang(Kind.GUEST_IDLE, "it"), Hang(Kind.GUEST_IDLE, "it", "cpu_map_update_elem")
    assert judge_error(AgentLost("lost", hang=idle), []).verdict is Verdict.INVALID
    judgement = judge_error(AgentLost("lost", hang=kept), [])
    assert judgement == Judgement(Verdict.FAIL, ("lost\n  guest idle: it",))
    assert tell_hang(judgement, kept) == judgement  # it is told once
    assert tell_hang(Judgement(Verdict.PASS), kept).reasons == ()
    failed = tell_hang(Judgement(Verdict.FAIL, ("2 is not 3",)), idle)
    assert failed == Judgement(Verdict.FAIL, ("2 is not 3", "guest idle: it"))


@pytest.mark.parametrize("kind", [Kind.HOST_STARVED, Kind.QEMU_DEAD])
def test_a_guest_that_could_not_run_has_not_failed(kind: Kind) -> None:
    hang = Hang(kind, "it")
    failed, crashed = (Judgement(verdict, ("x",)) for verdict in (Verdict.FAIL, Verdict.CRASH))
    assert tell_hang(failed, hang).verdict is Verdict.INVALID
    assert tell_hang(crashed, hang).verdict is Verdict.CRASH


def test_whose_guest_is_worth_freezing() -> None:
    def worth(hang: Hang | None, ended: str = "", verdict: Verdict = Verdict.CRASH) -> bool:
        machine = SimpleNamespace(freezes=True, hang=hang, ended=ended)
        guest: Any = SimpleNamespace(machine=machine)
        return worth_freezing(guest, verdict)

    starved = Hang(Kind.HOST_STARVED, "QEMU ran for 1 % of the time")
    assert worth(None)
    assert not worth(None, verdict=Verdict.PASS)
    assert not worth(starved)
    assert worth(starved, "the guest has panicked")
    assert worth(Hang(Kind.GUEST_SPINNING, "CPU 0"))
