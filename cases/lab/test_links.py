"""What every link to an agent has to do, over a virtio-serial port and over an SSH channel."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING, NamedTuple

import pytest

from harness.agent.syscalls import Syscalls
from harness.errors import AgentLost, GuestError
from harness.lab import Lab
from harness.machine.topology import Topology
from harness.target.lab import patiently
from harness.target.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.agent.link import Link
    from harness.guest import Guest
    from harness.target.login import Login
    from harness.target.session import Started

SMALL = Topology(cpus=2, memory_mib=256, nics=0)
PAYLOAD = 3 << 20


class Line(NamedTuple):
    """A link, and a way to end who is at its other end."""

    link: Link
    end: Callable[[], None]


def start_agent(login: Login) -> tuple[Session, Started]:
    """Start an agent in a session of its own."""
    with contextlib.ExitStack() as undo:
        session = undo.enter_context(Session(login))
        started = session.start_agent(deadline_s=120)
        undo.pop_all()
    return session, started


@pytest.fixture(params=["virtio-serial", "SSH channel"])
def line(
    request: pytest.FixtureRequest, a_kernel: str, machine: Guest, login: Login
) -> Iterator[Line]:
    with contextlib.ExitStack() as undo:
        if request.param == "virtio-serial":
            guest = undo.enter_context(Lab().open(a_kernel, SMALL))
            yield Line(guest.own.link, lambda: os.kill(guest.own.process.pid, signal.SIGKILL))
            return
        session, started = patiently(lambda: start_agent(login))
        undo.enter_context(session)
        undo.callback(session.end_agent, started)

        def end() -> None:
            pid = int(started.link.call("read", "/proc/self/stat", 64).split()[0])
            machine.calls.must("kill", pid, signal.SIGKILL)

        yield Line(started.link, end)


def test_what_a_link_has_to_do(line: Line) -> None:
    link = line.link
    calls, aside = Syscalls(link), Syscalls(link, task=1)
    # a call, and errors with their errno
    assert link.call("read", "/proc/sys/kernel/ostype", 64) == b"Linux\n"
    for request, number in (
        (("read", "/nonexistent", 1), errno.ENOENT),
        (("no_such_operation",), errno.ENOSYS),
        (("read",), errno.EINVAL),
    ):
        with pytest.raises(GuestError) as failed:
            link.call(*request)
        assert failed.value.errno == number
    # a large payload both ways
    payload = os.urandom(PAYLOAD)
    assert link.call("write", "/tmp/payload", payload) == PAYLOAD
    assert link.call("read", "/tmp/payload", PAYLOAD) == payload
    calls.must("unlink", b"/tmp/payload\0")
    # two streams of calls: one is answered while the other waits
    child = link.call("spawn", "pause", [], -1, 0, 0)
    waiting = aside.start("wait4", child, 0, 0, 0)
    for _ in range(20):
        assert link.call("read", "/proc/sys/kernel/ostype", 64) == b"Linux\n"
    # a deadline
    with pytest.raises(AgentLost, match="did not answer 'syscall' within 0 s"):
        aside.collect(waiting, deadline_s=0.2)
    with pytest.raises(AgentLost, match="still at 'syscall': it cannot do 'syscall'"):
        aside.raw("close", 999)
    # what was given up ends late, and its stream goes on
    calls.must("kill", child, signal.SIGKILL)
    assert aside.collect(waiting).value == child
    assert aside.raw("close", 999).errno == errno.EBADF
    # the other end goes
    line.end()
    with pytest.raises(AgentLost, match=r"the link closed while \w+"):
        link.call("read", "/proc/uptime", 64)
    with pytest.raises(AgentLost, match="the link closed while"):
        link.call("read", "/proc/uptime", 64)
