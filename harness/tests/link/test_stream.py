"""Frames lost, doubled, damaged and cut on their way between host and agent."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from harness.agent.link import BODY_MAX, HEADER, MAGIC, Link, take_frame
from harness.agent.syscalls import Syscalls
from harness.errors import GuestError
from harness.tests.agents import Agent, Middle, frame
from harness.tests.fakes import LATE_S

if TYPE_CHECKING:
    from pathlib import Path

AT_FDCWD = -100
MEGABYTES = 5 << 20
SYS_WRITE = 1


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
        link = Link(middle.sock, deadline_s=LATE_S)
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
        calls = Syscalls(Link(middle.sock, deadline_s=LATE_S), task=1)
        opened: list[int] = []
        path = f"{tmp_path}/fifo\0".encode()

        def open_it() -> None:
            opened.append(calls.must("openat", AT_FDCWD, path, os.O_RDONLY).value)

        thread = threading.Thread(target=open_it)
        thread.start()
        assert resent.wait(LATE_S)
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
        thread.join()
        assert calls.must("close", opened[0]).value == 0
        assert calls.raw("close", opened[0] + 1).errno == errno.EBADF


def test_what_comes_twice_is_run_and_answered_once(agent: Agent, tmp_path: Path) -> None:
    with Middle(agent, there=lambda b: frame(b) * 2, back=lambda b: frame(b) * 2) as middle:
        link = Link(middle.sock, deadline_s=LATE_S)
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
        link = Link(middle.sock, deadline_s=LATE_S)
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
        link = Link(middle.sock, deadline_s=LATE_S)
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
        link = Link(middle.sock, deadline_s=LATE_S)
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
