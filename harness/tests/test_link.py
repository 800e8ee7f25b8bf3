"""The host's end of the link against the real agent, run as an ordinary program."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

import harness.agent.link
from harness.agent.link import BODY_MAX, HEADER, MAGIC, Link, take_frame
from harness.agent.syscalls import NR, Buffer, Syscalls
from harness.errors import AgentLost, GuestError, UserError
from harness.machine.hang.findings import Hang, Kind
from harness.tests.agents import DEADLINE_S, Agent, Middle, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_FDCWD = -100
SYS_WRITE, SYS_PIPE2, SYS_GETSOCKNAME, SYS_SENDTO = 1, 293, 51, 44
SIOCGIFCONF, SIOCGIFINDEX = 0x8912, 0x8933
MEGABYTES = 5 << 20


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as agent:
        yield agent


@pytest.fixture
def link(agent: Agent) -> Iterator[Link]:
    link = agent.link()
    yield link
    link.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send again after little time."""
    monkeypatch.setattr(harness.agent.link, "RESEND_S", 0.05)


# Calls


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


# Tasks


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


def wait_readable(sock: socket.socket) -> None:
    assert select.select([sock], [], [], DEADLINE_S)[0]


# What goes wrong on the way


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_lost_frame_is_sent_again_and_runs_once(
    agent: Agent, tmp_path: Path, task: int, lost: str
) -> None:
    seen: list[bytes] = []

    def lose_first(body: bytes) -> bytes:
        seen.append(body)
        return b"" if len(seen) == 1 else frame(body)

    way = {"there": lose_first} if lost == "request" else {"back": lose_first}
    with Middle(agent, **way) as middle:
        link = Link(middle.sock, deadline_s=DEADLINE_S)
        calls = Syscalls(link)
        path = tmp_path / "log"
        seen.append(b"")  # not the opening
        fd = calls.must(
            "openat", AT_FDCWD, f"{path}\0".encode(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        ).value
        seen.clear()
        once: tuple[Any, ...] = ("syscall", SYS_WRITE, [fd, [0], 1], [b"x"], [], [])
        assert link.call(*once, task=task) == [1, 0, []]
        assert len(seen) > 1
        assert path.read_bytes() == b"x"
        assert link.call(*once, task=task) == [1, 0, []]
        assert path.read_bytes() == b"xx"


@pytest.mark.usefixtures("impatient")
def test_a_request_that_takes_long_is_not_run_again(agent: Agent, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    resent = threading.Event()
    count = 0

    def note(body: bytes) -> bytes:
        nonlocal count
        count += 1
        if count > 3:
            resent.set()
        return frame(body)

    with Middle(agent, there=note) as middle:
        calls = Syscalls(Link(middle.sock, deadline_s=DEADLINE_S), task=1)
        opened: list[int] = []
        path = f"{tmp_path}/fifo\0".encode()

        def open_it() -> None:
            opened.append(calls.must("openat", AT_FDCWD, path, os.O_RDONLY).value)

        thread = threading.Thread(target=open_it)
        thread.start()
        assert resent.wait(DEADLINE_S)
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
        thread.join()
        assert calls.must("close", opened[0]).value == 0
        assert calls.raw("close", opened[0] + 1).errno == errno.EBADF


def test_what_comes_twice_is_run_and_answered_once(agent: Agent, tmp_path: Path) -> None:
    with Middle(agent, there=lambda b: frame(b) * 2, back=lambda b: frame(b) * 2) as middle:
        link = Link(middle.sock, deadline_s=DEADLINE_S)
        fd = Syscalls(link).must(
            "openat", AT_FDCWD, f"{tmp_path}/log\0".encode(), os.O_WRONLY | os.O_CREAT, 0o600
        )
        for count in range(1, 20):
            assert link.call("syscall", SYS_WRITE, [fd.value, [0], 1], [b"x"], [], []) == [1, 0, []]
            assert (tmp_path / "log").read_bytes() == b"x" * count


GARBAGE = {
    "noise": b"login: \xff\x00\r\n",
    "half a magic": MAGIC.to_bytes(4, "little")[:3],
    "a header that promises too much": HEADER.pack(MAGIC, 0xFFFFFFFF, 0),
    "an empty frame": HEADER.pack(MAGIC, 0, 0),
    "a wrong sum": HEADER.pack(MAGIC, 4, 1) + b"body",
    "no MessagePack": frame(b"\xc1"),
    "no answer": frame(b"\x01"),
    "a megabyte": os.urandom(1 << 20),
    "a megabyte of magics": MAGIC.to_bytes(4, "little") * (1 << 18),
    "a large frame cut short": frame(bytes(4 << 20))[:-1] + b"\xff",
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("way", ["there", "back"])
def test_garbage_before_a_frame_is_passed_over(agent: Agent, garbage: bytes, way: str) -> None:
    def soil(body: bytes) -> bytes:
        return garbage + frame(body)

    with Middle(agent, **{way: soil}) as middle:
        link = Link(middle.sock, deadline_s=DEADLINE_S)
        for _ in range(3):
            assert link.call("read", "/proc/self/comm", 100) == b"agent\n"


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1\xc1",
        *map(msgpack.packb, (1, [1, 2, 3], [1, 32, 1, "read", []], [1, 0, 1, "read", 0])),
    ],
)
def test_a_malformed_request_is_dropped(agent: Agent, body: bytes) -> None:
    with Middle(agent, there=lambda good: frame(body) + frame(good)) as middle:
        link = Link(middle.sock, deadline_s=DEADLINE_S)
        assert link.call("read", "/proc/self/comm", 100) == b"agent\n"


def test_a_result_beyond_the_limit_is_an_error(link: Link) -> None:
    with pytest.raises(GuestError, match="larger than the link takes") as caught:
        link.call("syscall", -1, [], [BODY_MAX // 2] * 3, [], [0, 1, 2])
    assert caught.value.errno == errno.EMSGSIZE
    assert link.call("read", "/proc/self/comm", 100) == b"agent\n"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("size", [1, MEGABYTES])
@pytest.mark.parametrize("way", ["there", "back"])
def test_a_damaged_frame_is_sent_again(agent: Agent, tmp_path: Path, way: str, size: int) -> None:
    frames = 0

    def damage_first(body: bytes) -> bytes:
        nonlocal frames
        frames += 1
        good = frame(body)
        return good if frames > 1 else good[:-1] + bytes([good[-1] ^ 1])

    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    with Middle(agent, **{way: damage_first}) as middle:
        link = Link(middle.sock, deadline_s=DEADLINE_S)
        if way == "back":
            assert link.call("read", str(tmp_path / "file"), size) == content
        else:
            assert link.call("write", str(tmp_path / "copy"), content) == size
            assert (tmp_path / "copy").read_bytes() == content
    assert frames > 1


def test_a_stream_in_pieces(agent: Agent) -> None:
    body = msgpack.packb([7, 0, 1, "read", ["/proc/self/comm", 100]])
    for byte in frame(body):
        agent.sock.sendall(bytes([byte]))
    data = bytearray()
    while (answer := take_frame(data)) is None:
        data += agent.sock.recv(1)
    assert msgpack.unpackb(answer) == [7, 0, 1, True, b"agent\n"]


# Sessions and ends


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
    with link.within(DEADLINE_S):
        assert link.call("read", "/proc/self/comm", 100, task=1) == b"agent\n"
    link.close()


def wait_until_opening(agent: Agent) -> None:
    """Wait until a thread of the agent is inside openat(2), for a FIFO without a writer."""
    deadline = time.monotonic() + DEADLINE_S
    tasks = Path(f"/proc/{agent.process.pid}/task")
    while not any(
        (t / "syscall").read_text().startswith(f"{NR['openat']} ") for t in tasks.iterdir()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.001)


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


@pytest.mark.parametrize("answering", [False, True])
def test_the_agent_ends_with_its_stream(agent: Agent, answering: bool) -> None:
    link = agent.link()
    link.call("read", "/proc/self/comm", 100)
    if answering:  # more than a socket holds: it is in the middle of its answer
        link.send("syscall", -1, [], [MEGABYTES], [], [0])
        wait_readable(agent.sock)
    link.close()
    agent.sock.close()
    assert agent.process.wait(DEADLINE_S) == 0


# System calls


def test_a_pointer_in_a_buffer(link: Link) -> None:
    """SIOCGIFCONF takes a struct with a pointer to memory that it fills."""
    calls = Syscalls(link)
    fd = calls.must("socket", socket.AF_INET, socket.SOCK_DGRAM, 0).value
    interfaces = Buffer(4096, returned=True)
    header = Buffer(struct.pack("<i12x", 4096), returned=True, pointers={8: interfaces})
    calls.must("ioctl", fd, SIOCGIFCONF, header)
    (length,) = struct.unpack_from("<i", header.content)
    assert interfaces.content[:16].rstrip(b"\0") == b"lo"
    assert length % 40 == 0
    assert len(interfaces.content) == 4096


def test_a_buffer_goes_in_and_comes_back(link: Link) -> None:
    calls = Syscalls(link)
    fd = calls.must("socket", socket.AF_INET, socket.SOCK_DGRAM, 0).value
    request = Buffer(b"lo".ljust(40, b"\0"), returned=True)
    calls.must("ioctl", fd, SIOCGIFINDEX, request)
    assert int.from_bytes(request.content[16:20], "little") == socket.if_nametoindex("lo")


def test_a_failed_system_call_is_an_answer(link: Link) -> None:
    calls = Syscalls(link)
    result = calls.raw("openat", AT_FDCWD, b"/nonexistent\0", os.O_RDONLY)
    assert (result.value, result.errno) == (-1, errno.ENOENT)
    with pytest.raises(GuestError, match=r"openat \(a file\) failed in the guest: ENOENT"):
        calls.must("openat", AT_FDCWD, b"/nonexistent\0", os.O_RDONLY, why="a file")


@pytest.mark.parametrize(
    "malformed",
    [
        (SYS_WRITE, [1], [], []),
        (SYS_WRITE, [[0]], [], [], []),
        (SYS_WRITE, [0] * 7, [], [], []),
        (SYS_WRITE, [0], [b""] * 17, [], []),
        (SYS_WRITE, [0], [-1], [], []),
        (SYS_WRITE, [0], [b"1234567"], [[0, 0, 0]], []),
        (SYS_WRITE, [0], [b"12345678"], [[0, 1, 0]], []),
        (SYS_WRITE, [0], [b"12345678"], [[0, -1, 0]], []),
        (SYS_WRITE, [0], [b"12345678"], [[0, 0, 1]], []),
        (SYS_WRITE, [0], [b"12345678"], [[0, 0]], []),
        (SYS_WRITE, [0], [b"12345678"], [7], []),
        (SYS_WRITE, [0], [b"12345678"], [], [1]),
        (SYS_WRITE, [0], [1 << 62], [], []),
        (SYS_WRITE, [0], [(1 << 64) - 1], [], []),
        (SYS_WRITE, ["0"], [], [], []),
        ("write", [], [], [], []),
    ],
)
def test_a_malformed_system_call_is_refused(link: Link, malformed: tuple[Any, ...]) -> None:
    with pytest.raises(GuestError) as caught:
        link.call("syscall", *malformed)
    assert caught.value.errno in (errno.EINVAL, errno.ENOMEM)
    assert link.call("read", "/proc/self/comm", 100) == b"agent\n"


def test_descriptors_are_drained(link: Link) -> None:
    ends = link.call("syscall", SYS_PIPE2, [[0], os.O_NONBLOCK], [8], [], [0])[2][0]
    reader, writer = struct.unpack("<ii", ends)
    assert link.call("drain", [reader, reader], 100) == [b"", b""]
    assert link.call("syscall", SYS_WRITE, [writer, [0], 5], [b"12345"], [], []) == [5, 0, []]
    assert link.call("drain", [reader], 3) == [b"123"]
    assert link.call("drain", [reader], 100) == [b"45"]
    assert link.call("drain", [], 100) == []


# Processes


def test_a_child_lives_until_it_is_killed(link: Link) -> None:
    calls = Syscalls(link)
    pid = link.call("spawn", "pause", [], -1, 0, 0)
    assert link.call("threads", "agent").count([pid, "agent"]) == 1
    calls.must("kill", pid, signal.SIGKILL)
    status = Buffer(4, returned=True)
    assert calls.must("wait4", pid, status, 0, 0).value == pid
    assert os.waitstatus_to_exitcode(int.from_bytes(status.content, "little")) == -signal.SIGKILL
    assert [pid, "agent"] not in link.call("threads", "agent")


def test_a_spinner_is_on_its_cpu_when_spawn_returns(link: Link) -> None:
    cpu = min(os.sched_getaffinity(0))
    pid = link.call("spawn", "spin", [], cpu, 0, 0)
    assert os.sched_getaffinity(pid) == {cpu}
    Syscalls(link).must("kill", pid, signal.SIGKILL)
    Syscalls(link).must("wait4", pid, 0, 0, 0)


@pytest.mark.parametrize(("what", "kept"), [("spin", False), ("pause", True)])
def test_who_keeps_the_agents_descriptors(link: Link, what: str, kept: bool) -> None:
    calls = Syscalls(link)
    pid = link.call("spawn", what, [], -1, 0, 0)
    fds = Path(f"/proc/{pid}/fd")
    until = time.monotonic() + 10
    while bool(list(fds.iterdir())) != kept and time.monotonic() < until:
        time.sleep(0.01)
    assert bool(list(fds.iterdir())) == kept
    calls.must("kill", pid, signal.SIGKILL)
    calls.must("wait4", pid, 0, 0, 0)


@pytest.mark.parametrize(
    ("argv", "status"),
    [(["/bin/sh", "-c", "exit 7"], 7), (["/bin/sh", "-c", "echo $0", "x"], 0), (["/nope"], 127)],
)
def test_a_program_is_run(link: Link, argv: list[str], status: int) -> None:
    pid = link.call("spawn", "exec", argv, -1, 0, 0)
    said = Buffer(4, returned=True)
    assert Syscalls(link).must("wait4", pid, said, 0, 0).value == pid
    assert os.waitstatus_to_exitcode(int.from_bytes(said.content, "little")) == status


def test_threads_are_found_by_their_comm(agent: Agent, link: Link) -> None:
    found = link.call("threads", "agent")
    assert [agent.process.pid, "agent"] in found
    assert {comm[:5] for _, comm in found} == {"agent"}
    assert link.call("threads", "no such comm") == []


def test_a_sink_counts_numbered_datagrams(link: Link) -> None:
    calls = Syscalls(link)
    fd = calls.must("socket", socket.AF_INET, socket.SOCK_DGRAM, 0).value
    address = struct.pack("<H2x4s8x", socket.AF_INET, socket.inet_aton("127.0.0.1"))
    calls.must("bind", fd, address, len(address))
    bound = Buffer(16, returned=True)
    name = link.call("syscall", SYS_GETSOCKNAME, [fd, [0], [1]], [16, b"\x10\0\0\0"], [], [0])
    bound.data = name[2][0]
    link.call("sink_start", fd, 3)
    with pytest.raises(GuestError, match="a sink is running already"):
        link.call("sink_start", fd, 3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", int.from_bytes(bound.content[2:4], "big")))
        for number in (0, 2, 2):
            sender.send(struct.pack("<HHI", 0xC9A7, 0, number) + b"payload")
        for stray in (struct.pack("<HHI", 0xC9A7, 0, 3), struct.pack("<HHI", 1, 0, 0), b"short"):
            sender.send(stray)
    counts, sums = link.call("sink_stop")
    assert counts == b"\x01\x00\x02"
    assert link.call("sink_count") == 6  # strays too
    first, none, last = struct.unpack("<3I", sums)
    assert first == zlib.crc32(struct.pack("<HHI", 0xC9A7, 0, 0) + b"payload")
    assert none == 0
    assert last == zlib.crc32(struct.pack("<HHI", 0xC9A7, 0, 2) + b"payload")
