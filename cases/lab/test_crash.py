"""A kernel that breaks is seen, and told from a lab that breaks: on unmodified kernels."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from lab_tools import wait_until

from harness.casework import Casework
from harness.errors import AgentLost, LabError
from harness.machine.topology import Topology
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.judge import Judgement
    from harness.lab import Lab

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
    assert not case.guest.machine.process.alive()


def test_a_panic(case: Casework) -> None:
    run = case.steer(1)

    def act() -> None:
        case.send(frames=10)
        assert run.wait_rest()
        case.guest.write("/proc/sysrq-trigger", "c")

    judgement = judged(case, act)
    assert judgement.verdict is Verdict.CRASH
    assert judgement.reasons[0] == "panic: Kernel panic - not syncing: sysrq triggered crash"


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
