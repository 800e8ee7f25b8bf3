"""System calls and processes of the real agent."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.agent.syscalls import Buffer, Syscalls
from harness.errors import GuestError

if TYPE_CHECKING:
    from harness.agent.link import Link
    from harness.tests.agents import Agent

AT_FDCWD = -100
SYS_WRITE, SYS_PIPE2, SYS_GETSOCKNAME, SYS_SENDTO = 1, 293, 51, 44
SIOCGIFCONF, SIOCGIFINDEX = 0x8912, 0x8933


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


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a second CPU")
def test_a_spinner_ends_when_it_is_driven_from_its_cpu(link: Link) -> None:
    cpu, other = sorted(os.sched_getaffinity(0))[:2]
    pid = link.call("spawn", "spin", [], cpu, 0, 0)
    os.sched_setaffinity(pid, {other})
    status = Buffer(4, returned=True)
    assert Syscalls(link).must("wait4", pid, status, 0, 0).value == pid
    assert status.content == bytes(4)


def test_a_hoarder_has_its_memory_when_spawn_returns(link: Link) -> None:
    pid = link.call("spawn", "hoard", [str(8 << 20)], -1, 0, 0)
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    assert 8 << 20 < pages * mmap.PAGESIZE < 16 << 20
    Syscalls(link).must("kill", pid, signal.SIGKILL)
    Syscalls(link).must("wait4", pid, 0, 0, 0)


@pytest.mark.parametrize(("what", "kept"), [("spin", False), ("hoard", False), ("pause", True)])
def test_who_keeps_the_agents_descriptors(link: Link, what: str, kept: bool) -> None:
    calls = Syscalls(link)
    pid = link.call("spawn", what, ["4096"], -1, 0, 0)
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
