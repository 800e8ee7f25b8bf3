"""One host after the other, and agents that fall silent or die."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from harness.agent.link import Link
from harness.agent.syscalls import NR, Syscalls
from harness.errors import AgentLost
from harness.machine.hang.findings import Hang, Kind
from harness.patience import wait_until
from harness.tests.agents import Agent, wait_readable
from harness.tests.fakes import LATE_S

AT_FDCWD = -100
MEGABYTES = 5 << 20


def test_one_link_after_the_other(agent: Agent) -> None:
    for _ in range(3):
        link = agent.link()
        assert link.call("read", "/proc/self/comm", 100) == b"agent\n"
        assert link.call("read", "/proc/self/comm", 100, task=3) == b"agent\n"
        link.close()


def test_an_answer_to_the_last_session_is_nobodys(agent: Agent, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = f"{tmp_path}/fifo\0".encode()
    old, new = agent.link(), agent.link()
    Syscalls(old, task=1).start("openat", AT_FDCWD, path, os.O_RDONLY)
    wait_until_opening(agent)
    waiting = new.send("read", "/proc/self/comm", 100, task=1)  # behind the old session's
    os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
    assert new.wait(waiting) == b"agent\n"


def test_a_thread_stands_in_for_the_main_loop(agent: Agent, link: Link, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = f"{tmp_path}/fifo\0".encode()
    for _ in range(2):
        kept = Syscalls(link).start("openat", AT_FDCWD, path, os.O_RDONLY)
        wait_until_opening(agent)
        with pytest.raises(AgentLost, match="is still at 'syscall': it cannot do 'read'"):
            link.call("read", "/proc/self/comm", 100)
        assert link.call("read", "/proc/self/comm", 100, task=5) == b"agent\n"
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
        assert Syscalls(link).collect(kept).errno == 0
        assert link.call("read", "/proc/self/comm", 100) == b"agent\n"


def test_another_host_finds_who_stands_in(agent: Agent, tmp_path: Path) -> None:
    """A guest that is frozen while its agent is kept, and thawed."""
    os.mkfifo(tmp_path / "fifo")
    path = f"{tmp_path}/fifo\0".encode()
    old, new = agent.link(), agent.link()
    Syscalls(old).start("openat", AT_FDCWD, path, os.O_RDONLY)
    wait_until_opening(agent)
    assert new.call("read", "/proc/self/comm", 100) == b"agent\n"
    os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
    for _ in range(100):
        assert new.call("read", "/proc/self/comm", 100) == b"agent\n"


def test_an_agent_that_is_given_up_is_examined(agent: Agent) -> None:
    asked: list[str] = []

    def examine(what: str) -> Hang:
        asked.append(what)
        return Hang(Kind.AGENT_DEAD, "it is stopped")

    link = Link(agent.sock.dup(), deadline_s=0.05, examine=examine)
    os.kill(agent.process.pid, signal.SIGSTOP)
    with pytest.raises(AgentLost, match="within 0 s\n  agent dead: it is stopped") as caught:
        link.call("read", "/proc/self/comm", 100)
    assert asked == [caught.value.message]
    os.kill(agent.process.pid, signal.SIGCONT)
    with link.within(LATE_S):
        assert link.call("read", "/proc/self/comm", 100, task=1) == b"agent\n"
    link.close()


def wait_until_opening(agent: Agent) -> None:
    """Wait until a thread of the agent is inside openat(2), for a FIFO without a writer."""
    tasks = Path(f"/proc/{agent.process.pid}/task")

    def opening() -> bool:
        calls = [(task / "syscall").read_text() for task in tasks.iterdir()]
        return any(call.startswith(f"{NR['openat']} ") for call in calls)

    assert wait_until(opening, LATE_S)


def test_a_silent_agent_is_lost(agent: Agent, link: Link) -> None:
    os.kill(agent.process.pid, signal.SIGSTOP)
    with pytest.raises(AgentLost, match="did not answer 'read' within 0 s") as caught:
        link.call("read", "/proc/self/comm", 100, deadline_s=0.05)
    assert caught.value.exit_status == 125


def test_an_agent_that_takes_nothing_is_lost(agent: Agent) -> None:
    os.kill(agent.process.pid, signal.SIGSTOP)
    link = agent.link(deadline_s=0.1)
    with pytest.raises(AgentLost, match="did not take the request 'write'"):
        link.call("write", "/dev/null", bytes(MEGABYTES))


@pytest.mark.parametrize("op", ["read", "write"])
def test_a_dead_agent_is_lost_at_once(agent: Agent, link: Link, op: str) -> None:
    agent.process.kill()
    agent.process.wait()
    with pytest.raises(AgentLost, match="the link closed"):
        link.call(op, "/dev/null", bytes(MEGABYTES) if op == "write" else 1)


def test_an_agent_that_dies_while_it_is_waited_for_is_lost(
    agent: Agent, link: Link, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = f"{tmp_path}/fifo\0".encode()
    waiting = Syscalls(link, task=1).start("openat", AT_FDCWD, path, os.O_RDONLY)
    agent.process.kill()
    with pytest.raises(AgentLost, match="the link closed while waiting for 'syscall'"):
        link.wait(waiting.ticket)


def test_a_link_that_is_hung_up_in_another_thread_says_why(agent: Agent, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = f"{tmp_path}/fifo\0".encode()
    link = Link(agent.sock.dup(), deadline_s=LATE_S, gone=lambda: "the guest is no more")
    waiting = Syscalls(link, task=1).start("openat", AT_FDCWD, path, os.O_RDONLY)
    wait_until_opening(agent)
    other = threading.Timer(0.05, link.hang_up)
    other.start()
    with pytest.raises(AgentLost, match="waiting for 'syscall': the guest is no more"):
        link.wait(waiting.ticket)
    with pytest.raises(AgentLost, match="the guest is no more"):
        link.call("write", "/dev/null", b"x")
    other.join()
    link.close()
    link.hang_up()


@pytest.mark.parametrize("answering", [False, True])
def test_the_agent_ends_with_its_stream(agent: Agent, answering: bool) -> None:
    link = agent.link()
    link.call("read", "/proc/self/comm", 100)
    if answering:  # more than a socket holds: it is in the middle of its answer
        link.send("syscall", -1, [], [MEGABYTES], [], [0])
        wait_readable(agent.sock)
    link.close()
    agent.sock.close()
    assert agent.process.wait(LATE_S) == 0
