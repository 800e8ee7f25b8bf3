"""A kernel that breaks is seen, and told from a lab that breaks: on unmodified kernels."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from lab_tools import wait_until

from harness.casework import Casework
from harness.errors import AgentLost, LabError, QemuFailed
from harness.frozen import read_frozen, resume
from harness.machine.hang.vcpus import read_registers, read_stack
from harness.machine.topology import Topology
from harness.machine.watcher import ENDS, PANICKED
from harness.remains import freeze_guest, worth_freezing
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.judge import Judgement
    from harness.lab import Lab
    from harness.machine.machine import Machine

POISON = 0x6B6B6B6B6B6B6B6B
"""What SLUB leaves in freed memory, if told to (include/linux/poison.h)."""
ASIDE = 2


@pytest.fixture
def case(workshop: Lab, kernel_spec: str) -> Iterator[Casework]:
    """A case whose judgement the test looks at, instead of the plugin."""
    with workshop.open(kernel_spec, Topology(append="slub_debug=FZPU")) as guest:
        yield Casework(guest)


def judged(case: Casework, act: Callable[[], None]) -> Judgement:
    """Return the judgement on a case, as the plugin comes to it."""
    try:
        act()
    except LabError as error:
        return case.explain(error)
    return case.finish()


def test_frames_of_a_device_that_is_gone(case: Casework) -> None:
    """A frame in a ring holds no reference to its device: its kthread uses freed memory.

    (xdp_frame.dev_rx; in all kernels from 5.10 to 7.3, and no fix is known.)
    """
    run = case.steer(3, entries={3: 256})

    def act() -> None:
        with case.hold(3):
            case.send(frames=50)
            run.wait_offered()
            run.detach()
            remove = "/sys/class/net/eth0/device/../remove"  # of the PCI device
            case.guest.calls.link.call("write", remove, b"1", task=ASIDE)

    judgement = judged(case, act)
    assert judgement.verdict is Verdict.CRASH
    oops, panic = judgement.reasons[:2]
    assert oops.startswith("oops: ")
    assert f"general protection fault, probably for non-canonical address {POISON:#x}" in oops
    assert ", at eth_type_trans+0x" in oops
    assert panic == "panic: Kernel panic - not syncing: Fatal exception in interrupt"
    assert "cpu_map_kthread_run" in case.guest.machine.splats()[0].text
    assert case.guest.machine.ended == PANICKED


def test_a_panic(case: Casework, workshop: Lab, tmp_path: Path) -> None:
    """The guest is kept as it was when it restarted: CPUs and memory; it does not run on."""
    run, machine = case.steer(1), case.guest.machine

    def act() -> None:
        case.send(frames=10)
        assert run.wait_rest()
        case.guest.write("/proc/sysrq-trigger", "c")

    judgement = judged(case, act)
    assert judgement.verdict is Verdict.CRASH
    panic, lost = judgement.reasons
    assert panic == "panic: Kernel panic - not syncing: sysrq triggered crash"
    assert lost.startswith(f"the link closed while waiting for 'write': {PANICKED}")
    assert machine.hang is None
    before = look(machine)
    assert set(freeze_guest(case.guest, tmp_path)) == {"guest.state.gz", "guest.json"}
    with resume(read_frozen(tmp_path), workshop) as again:
        assert look(again) == before
        assert again.ended == machine.ended
        with pytest.raises(QemuFailed, match="refused cont"):
            again.qmp("cont")
        with pytest.raises(AgentLost, match=machine.ended):
            again.link.call("read", "/proc/uptime", 100)


def look(machine: Machine) -> list[object]:
    """Return the registers of a guest's CPUs, and the stacks of those that do not sleep."""
    registers = read_registers(ask := machine.monitor.command)
    scratch = machine.directory / "stack"
    awake = [cpu for cpu, each in registers.items() if not each.halted]
    assert awake
    return [registers, *(read_stack(ask, cpu, registers[cpu], scratch) for cpu in awake)]


def test_a_guest_that_restarts_without_a_word(case: Casework) -> None:
    """No crash is known of it, and no hang: what it was doing is in its memory, which is kept."""
    run = case.steer(1)

    def act() -> None:
        case.guest.calls.link.send("write", "/proc/sysrq-trigger", b"b", task=ASIDE)
        while True:
            run.send([run.flow(frames=100)])

    judgement = judged(case, act)
    assert judgement.verdict is Verdict.INVALID
    (reason,) = judgement.reasons
    assert reason.startswith("the guest went away after ")
    assert ENDS["guest-reset"] in reason
    assert worth_freezing(case.guest, judgement.verdict)


def test_a_kernel_that_complains_and_goes_on(case: Casework) -> None:
    """All is delivered, all assertions hold, and the guest is as good as ever.

    A worker that ends a held kthread waits for it uninterruptibly: soon that is a hung task.
    """
    run = case.steer(3)
    case.guest.write("/proc/sys/kernel/hung_task_timeout_secs", "1")
    with case.hold(3):
        case.send(frames=50)
        run.wait_offered()
        run.cpumap.remove(3)
        wait_until(lambda: "blocked for more than" in case.guest.dmesg())
    assert case.close().delivered == 50
    judgement = case.finish()
    assert judgement.verdict is Verdict.CRASH
    assert judgement.reasons[0].startswith("hung task: INFO: task kworker/")
    assert "kthread_stop" in case.guest.splats()[0].text


def test_a_qemu_that_is_killed_is_no_crash(case: Casework) -> None:
    run = case.steer(1)

    def act() -> None:
        os.kill(case.guest.machine.process.pid, signal.SIGKILL)
        case.send(frames=10)
        run.close()

    judgement = judged(case, act)
    assert judgement.verdict is Verdict.INVALID
    assert "QEMU" in judgement.reasons[-1]


def test_a_guest_that_does_not_answer_is_no_crash(case: Casework) -> None:
    case.guest.machine.qmp("stop")
    with pytest.raises(AgentLost, match="did not answer 'read' within 1 s") as caught:
        case.guest.calls.link.call("read", "/proc/uptime", 100, deadline_s=1.0)
    judgement = case.explain(caught.value)
    assert judgement.verdict is Verdict.INVALID
    assert judgement.reasons == (str(caught.value),)
