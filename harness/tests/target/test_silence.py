"""A connection whose other end has vanished without a word, seen from both ends."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
import pytest

from harness.patience import wait_until
from harness.target.bridge import BEAT, GONE, bridge
from harness.target.pulse import Pulse
from harness.target.session import HOLD
from harness.tests.fakes import LATE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON_S = 0.01


class Sshd(paramiko.ServerInterface):  # type: ignore[misc]
    """Lets everyone in, runs nothing, and answers; unless it is to be silent.

    Attributes:
        asked: how often it was asked for a sign of life.
        voice: whether it answers.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.voice = threading.Event()
        self.voice.set()

    def check_auth_none(self, _user: str) -> int:
        """Let someone in."""
        return int(paramiko.AUTH_SUCCESSFUL)

    def get_allowed_auths(self, _user: str) -> str:
        """Say how one can log in."""
        return "none"

    def check_channel_request(self, _kind: str, _number: int) -> int:
        """Open a channel."""
        return int(paramiko.OPEN_SUCCEEDED)

    def check_global_request(self, _kind: str, _: object) -> bool:
        """Not know a request."""
        self.asked += 1
        self.voice.wait()
        return False


@pytest.fixture
def sshd() -> Sshd:
    return Sshd()


@pytest.fixture
def ends() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


@pytest.fixture
def server(ends: tuple[socket.socket, socket.socket], sshd: Sshd) -> Iterator[paramiko.Transport]:
    server = paramiko.Transport(ends[1])
    server.add_server_key(paramiko.ECDSAKey.generate())
    server.start_server(threading.Event(), sshd)
    yield server
    sshd.voice.set()
    server.close()


@pytest.fixture
def client(
    ends: tuple[socket.socket, socket.socket], server: paramiko.Transport
) -> Iterator[paramiko.Transport]:
    assert server.is_active()
    client = paramiko.Transport(ends[0])
    client.start_client(timeout=LATE_S)
    client.auth_none("root")
    yield client
    client.close()


@pytest.fixture(autouse=True)
def beat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.target.pulse.BEAT_S", SOON_S)
    monkeypatch.setattr("harness.target.bridge.BEAT_S", SOON_S)


def test_a_peer_that_answers_is_asked_again_and_again(
    client: paramiko.Transport, sshd: Sshd
) -> None:
    pulse = Pulse(client)
    assert wait_until(lambda: sshd.asked > 3, LATE_S)
    assert client.is_active()
    client.close()
    assert not pulse.stopped


def test_a_peer_that_does_not_answer_is_given_up(
    client: paramiko.Transport, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.target.pulse.SILENT_S", 0.2)
    channel = client.open_session(timeout=LATE_S)
    sshd.voice.clear()
    pulse = Pulse(client)
    assert wait_until(lambda: sshd.asked, LATE_S)
    with pytest.raises(GONE):
        channel.exec_command("true")  # the lab would wait for its answer, without an end
    assert pulse.stopped
    assert not client.is_active()


def test_what_is_sent_among_beats_comes_whole(
    client: paramiko.Transport, server: paramiko.Transport
) -> None:
    ours = bridge(client.open_session(timeout=LATE_S))
    theirs = server.accept(LATE_S)
    theirs.settimeout(LATE_S)
    came = theirs.recv(1)
    for part in (b"one", b"two"):
        ours.sendall(part)
        while part + BEAT not in came:
            came += theirs.recv(64)
    ours.close()
    while rest := theirs.recv(64):
        came += rest
    assert came.startswith(BEAT)
    assert came.replace(BEAT, b"") == b"onetwo"


def hold(tmp_path: Path, alone_s: int) -> subprocess.Popen[bytes]:
    """Start what holds a session's directory, below `tmp_path`."""
    return subprocess.Popen(
        ["sh", "-c", HOLD, "sh", str(alone_s), BEAT.decode()],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_a_directory_goes_when_nobody_is_heard(tmp_path: Path) -> None:
    with hold(tmp_path, 1) as holder:
        assert holder.stdout
        assert Path(holder.stdout.readline().decode().strip()).parent == tmp_path
        assert holder.wait(LATE_S) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_directory_goes_when_the_input_ends(tmp_path: Path) -> None:
    with hold(tmp_path, 600) as holder:
        assert holder.stdin
        holder.stdin.write(BEAT * 5)
        holder.stdin.flush()
        assert wait_until(lambda: list(tmp_path.iterdir()), LATE_S)
        assert holder.poll() is None
        holder.stdin.close()
        assert holder.wait(LATE_S) == 0
    assert list(tmp_path.iterdir()) == []
