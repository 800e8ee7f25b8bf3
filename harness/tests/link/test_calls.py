"""Calls and tasks: what the real agent answers, in which order."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from harness.agent.link import BODY_MAX, Link
from harness.agent.syscalls import Syscalls
from harness.errors import AgentLost, GuestError, UserError
from harness.tests.agents import Agent, wait_readable

if TYPE_CHECKING:
    from pathlib import Path

AT_FDCWD = -100
MEGABYTES = 5 << 20


def test_a_call_is_answered(link: Link, tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert link.call("write", str(path), b"some bytes") == 10
    assert path.read_bytes() == b"some bytes"
    assert link.call("read", str(path), 100) == b"some bytes"
    assert link.call("read", str(path), 4) == b"some"


@pytest.mark.parametrize(
    ("request_", "number"),
    [
        (("read", "/nonexistent", 1), errno.ENOENT),
        (("read", "/", 1), errno.EISDIR),
        (("write", "/nonexistent/file", b""), errno.ENOENT),
        (("no_such_operation",), errno.ENOSYS),
        (("read",), errno.EINVAL),
        (("read", 1, 2), errno.EINVAL),
        (("read", "x" * 5000, 1), errno.EINVAL),
        (("write", "/dev/null", "text, not bytes"), errno.EINVAL),
        (("drain", [999], 1), errno.EBADF),
        (("spawn", "dance", [], -1, 0, 0), errno.EINVAL),
        (("spawn", "exec", [], -1, 0, 0), errno.EINVAL),
        (("spawn", "hoard", [], -1, 0, 0), errno.EINVAL),
        (("spawn", "hoard", [str(2**62)], -1, 0, 0), errno.ENOMEM),
        (("spawn", "pause", [], 1023, 0, 0), errno.EINVAL),
        (("sink_stop",), errno.ENOENT),
    ],
)
def test_an_error_has_its_errno(link: Link, request_: tuple[Any, ...], number: int) -> None:
    with pytest.raises(GuestError, match=f"^{request_[0]} failed in the guest") as caught:
        link.call(*request_)
    assert caught.value.errno == number
    assert link.call("read", "/proc/self/comm", 100) == b"agent\n"


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, MEGABYTES])
def test_large_bodies(link: Link, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    assert link.call("write", str(tmp_path / "big"), content) == size
    assert link.call("read", str(tmp_path / "big"), size + 1) == content


def test_large_bodies_both_ways_at_once(agent: Agent, link: Link, tmp_path: Path) -> None:
    content = os.urandom(MEGABYTES)
    (tmp_path / "big").write_bytes(content)
    reading = link.send("read", str(tmp_path / "big"), MEGABYTES, task=1)
    wait_readable(agent.sock)  # the agent writes, and reads no more before that is read
    assert link.call("write", str(tmp_path / "other"), content) == MEGABYTES
    assert link.wait(reading) == content


def test_a_body_beyond_the_limit_is_refused_here(link: Link) -> None:
    with pytest.raises(UserError, match="64 MiB"):
        link.call("write", "/dev/null", bytes(BODY_MAX))
    assert link.call("read", "/proc/self/comm", 100) == b"agent\n"


def test_a_blocked_task_does_not_keep_the_others(link: Link, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    calls = {task: Syscalls(link, task=task) for task in (1, 2, 31)}
    opening = {
        task: calls[task].start("openat", AT_FDCWD, f"{fifo}\0".encode(), os.O_RDONLY)
        for task in calls
    }
    assert link.call("read", "/proc/self/comm", 100) == b"agent\n"
    writer = os.open(fifo, os.O_WRONLY)  # while it is open, readers need not wait
    for task, started in opening.items():
        descriptor = calls[task].collect(started).must("openat").value
        assert calls[task].must("close", descriptor).value == 0
    os.close(writer)


def test_a_tasks_answers_may_be_collected_in_any_order(link: Link) -> None:
    tickets = [link.send("read", "/proc/self/comm", count, task=count) for count in (3, 2, 1)]
    assert [link.wait(ticket) for ticket in reversed(tickets)] == [b"a", b"ag", b"age"]


def test_a_task_takes_one_request_at_a_time(link: Link, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    calls = Syscalls(link, task=1)
    path = f"{tmp_path}/fifo\0".encode()
    opening = calls.start("openat", AT_FDCWD, path, os.O_RDONLY)
    with pytest.raises(AgentLost, match="still at 'syscall'"):
        calls.start("openat", AT_FDCWD, path, os.O_RDONLY)
    os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
    calls.collect(opening).must("openat")
    assert link.call("read", "/proc/self/comm", 100, task=1) == b"agent\n"


def test_an_answer_that_came_too_late_does_not_stand_in_the_way(agent: Agent) -> None:
    link = agent.link()
    os.kill(agent.process.pid, signal.SIGSTOP)
    with pytest.raises(AgentLost, match="did not answer 'read' within 0 s"):
        link.call("read", "/proc/self/comm", 100, deadline_s=0.05)
    os.kill(agent.process.pid, signal.SIGCONT)
    # its answer is read before the next request is sent
    wait_readable(agent.sock)
    assert link.call("read", "/proc/version", 5) == b"Linux"
