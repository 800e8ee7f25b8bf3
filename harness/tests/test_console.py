from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pexpect
import pytest

from harness.machine.console import Console
from harness.tests.fakes import LATE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Guest:
    """Something that writes a console log, and lives or not."""

    def __init__(self, path: Path) -> None:
        self.lives = True
        self.asked = threading.Event()
        self._file = path.open("wb", buffering=0)

    def say(self, data: bytes) -> None:
        self._file.write(data)

    def alive(self) -> bool:
        self.asked.set()
        return self.lives

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


@pytest.fixture
def guest(path: Path) -> Iterator[Guest]:
    guest = Guest(path)
    yield guest
    guest.close()


@pytest.fixture
def console(guest: Guest, path: Path) -> Iterator[Console]:
    console = Console(path, guest.alive)
    yield console
    console.close()


def test_expects_what_is_there(guest: Guest, console: Console) -> None:
    guest.say(b"Linux version 7.3\r\ncpumap-lab: init\r\n")
    assert console.expect(["nothing", r"version (\S+)", "init"], timeout=LATE_S) == 1
    assert console.match[1] == "7.3"
    assert console.expect(["init"], timeout=LATE_S) == 0


def test_waits_for_what_comes(guest: Guest, console: Console) -> None:
    def speak() -> None:
        guest.asked.wait(LATE_S)  # it is being read
        for piece in (b"cpumap-", b"lab: age", b"nt ready\r\n"):
            guest.say(piece)

    speaker = threading.Thread(target=speak)
    speaker.start()
    assert console.expect([r"agent ready"], timeout=LATE_S) == 0
    speaker.join()


def test_silence_is_a_timeout(console: Console) -> None:
    with pytest.raises(pexpect.TIMEOUT):
        console.expect(["anything"], timeout=0.05)


def test_what_was_said_before_a_timeout_is_not_lost(guest: Guest, console: Console) -> None:
    guest.say(b"first half ")
    with pytest.raises(pexpect.TIMEOUT):
        console.expect(["half and second half"], timeout=0.05)
    guest.say(b"and second half")
    assert console.expect(["half and second half"], timeout=LATE_S) == 0


def test_the_last_words_are_heard_before_the_end(guest: Guest, console: Console) -> None:
    guest.say(b"Kernel panic - not syncing: bye\r\n")
    guest.lives = False
    assert console.expect(["Kernel panic"], timeout=LATE_S) == 0
    with pytest.raises(pexpect.EOF):
        console.expect(["more"], timeout=LATE_S)


def test_words_said_while_dying_are_heard(path: Path) -> None:
    """What QEMU wrote between the last read and its end is not missed."""
    guest = Guest(path)

    def alive() -> bool:
        if guest.lives:
            guest.say(b"last words\n")
            guest.lives = False
        return guest.lives

    console = Console(path, alive)
    assert console.expect(["last words"], timeout=LATE_S) == 0
    console.close()
    guest.close()


def test_the_end_can_be_expected(guest: Guest, console: Console) -> None:
    guest.lives = False
    assert console.expect([pexpect.TIMEOUT, pexpect.EOF], timeout=LATE_S) == 1


def test_a_character_in_two_pieces(guest: Guest, console: Console) -> None:
    guest.say("é".encode()[:1])
    with pytest.raises(pexpect.TIMEOUT):
        console.expect(["é"], timeout=0.05)
    guest.say("é".encode()[1:])
    assert console.expect(["é"], timeout=LATE_S) == 0


def test_bytes_that_are_no_text_do_no_harm(guest: Guest, console: Console) -> None:
    guest.say(b"\xff\xfe\x00 ready\n")
    assert console.expect(["ready"], timeout=LATE_S) == 0
    assert console.text() == "��\0 ready\n"


def test_much_is_read(guest: Guest, console: Console) -> None:
    guest.say(b"line\r\n" * 200_000 + b"the end")
    assert console.expect(["the end"], timeout=LATE_S) == 0


def test_text_is_all_of_it_whatever_was_read(guest: Guest, console: Console) -> None:
    guest.say(b"one\r\ntwo\r\nthree\r\n")
    console.expect(["two"], timeout=LATE_S)
    assert console.text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("said", "tail"),
    [(b"", ""), (b"one", "one"), (b"one\r\ntwo\r\nthree\r\n\r\n", "two\nthree")],
)
def test_tail(guest: Guest, console: Console, said: bytes, tail: str) -> None:
    guest.say(said)
    assert console.tail(2) == tail


def test_the_log_outlives_the_console(guest: Guest, console: Console, path: Path) -> None:
    guest.say(b"kept")
    console.close()
    assert path.read_bytes() == b"kept"
