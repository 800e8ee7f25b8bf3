from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import QemuFailed, QemuSilent
from harness.machine.monitor import Monitor
from harness.tests.fakes import LATE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOON_S = 0.1
GREETING = {"QMP": {"version": {"qemu": {"major": 10}, "package": ""}, "capabilities": []}}


class Qemu:
    """Answers QMP commands as told; None is no answer at all."""

    def __init__(self, answers: dict[str, dict[str, Any] | None], *, greets: bool = True) -> None:
        self.ours, self._theirs = socket.socketpair()
        self.heard: list[dict[str, Any]] = []
        self._answers: dict[str, dict[str, Any] | None] = {
            "qmp_capabilities": {"return": {}},
            **answers,
        }
        self._greets = greets
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        stream = self._theirs.makefile("rwb", buffering=0)
        if self._greets:
            stream.write(json.dumps(GREETING).encode() + b"\r\n")
        for line in stream:
            heard = json.loads(line)
            self.heard.append(heard)
            answer = self._answers.get(heard["execute"], {"hang": "up"})
            if answer == {"hang": "up"}:
                break
            if answer is not None:
                stream.write(b'{"event": "STOP", "data": {}}\r\n')
                numbered = {"id": heard["id"], **answer}
                stream.write(json.dumps(numbered).encode() + b"\r\n")
        stream.close()
        self._theirs.close()

    def say(self, message: dict[str, Any]) -> None:
        self._theirs.sendall(json.dumps(message).encode() + b"\r\n")

    def close(self) -> None:
        self.ours.close()
        self._thread.join()


@pytest.fixture
def monitor() -> Iterator[Callable[..., tuple[Monitor, Qemu]]]:
    made: list[tuple[Monitor, Qemu]] = []

    def make(deadline_s: float = LATE_S, **how: Any) -> tuple[Monitor, Qemu]:
        qemu = Qemu(**how)
        made.append((Monitor(qemu.ours, deadline_s=deadline_s), qemu))
        return made[-1]

    yield make
    for monitor, qemu in made:
        monitor.close()
        qemu.close()


def test_a_command_is_answered(monitor: Callable[..., tuple[Monitor, Qemu]]) -> None:
    mine, qemu = monitor(answers={"query-status": {"return": {"status": "paused"}}})
    assert mine.command("query-status", {}) == {"status": "paused"}
    assert mine.command("query-status", {"a": 1}) == {"status": "paused"}
    assert [heard["execute"] for heard in qemu.heard] == [
        "qmp_capabilities",
        "query-status",
        "query-status",
    ]
    assert qemu.heard[2]["arguments"] == {"a": 1}


def test_a_refusal_is_told(monitor: Callable[..., tuple[Monitor, Qemu]]) -> None:
    refusal = {"error": {"class": "GenericError", "desc": "no such thing"}}
    mine, _ = monitor(answers={"bad": refusal, "good": {"return": 7}})
    with pytest.raises(QemuFailed, match="QEMU refused bad: no such thing"):
        mine.command("bad", {})
    assert mine.command("good", {}) == 7


def test_a_qemu_that_does_not_greet(monitor: Callable[..., tuple[Monitor, Qemu]]) -> None:
    mine, _ = monitor(SOON_S, answers={}, greets=False)
    with pytest.raises(QemuFailed, match="QEMU did not answer stop within 0 s"):
        mine.command("stop", {})


def test_a_qemu_that_does_not_answer(monitor: Callable[..., tuple[Monitor, Qemu]]) -> None:
    mine, _ = monitor(SOON_S, answers={"stop": None})
    with pytest.raises(QemuFailed, match="QEMU did not answer stop within 0 s"):
        mine.command("stop", {})


def test_an_answer_that_comes_too_late_is_nobodys(
    monitor: Callable[..., tuple[Monitor, Qemu]],
) -> None:
    mine, qemu = monitor(answers={"slow": None, "quick": {"return": 7}})
    with pytest.raises(QemuSilent, match="QEMU did not answer slow within 0 s"):
        mine.command("slow", {}, SOON_S)
    late = {"return": "late", "id": qemu.heard[-1]["id"]}
    qemu.say(late)
    assert mine.command("quick", {}) == 7


def test_a_qemu_that_hangs_up(monitor: Callable[..., tuple[Monitor, Qemu]]) -> None:
    mine, _ = monitor(answers={})
    with pytest.raises(QemuFailed, match="QEMU hung up on stop"):
        mine.command("stop", {})
    with pytest.raises(QemuFailed, match="QEMU hung up on stop"):
        mine.command("stop", {})


def test_a_qemu_that_was_never_there(monitor: Callable[..., tuple[Monitor, Qemu]]) -> None:
    mine, _ = monitor(answers={"qmp_capabilities": {"hang": "up"}})
    with pytest.raises(QemuFailed, match="QEMU hung up on stop"):
        mine.command("stop", {})


def test_an_answer_in_pieces(monitor: Callable[..., tuple[Monitor, Qemu]]) -> None:
    long = {"return": ["x" * 1000] * 500}
    mine, _ = monitor(answers={"query-much": long})
    assert mine.command("query-much", {}) == long["return"]


def test_hanging_up_twice_does_no_harm(monitor: Callable[..., tuple[Monitor, Qemu]]) -> None:
    mine, _ = monitor(answers={"stop": {"return": {}}})
    mine.command("stop", {})
    mine.close()
    mine.close()


def test_several_monitors_at_once(monitor: Callable[..., tuple[Monitor, Qemu]]) -> None:
    both = [monitor(answers={"who": {"return": number}})[0] for number in range(2)]
    assert [mine.command("who", {}) for mine in both * 2] == [0, 1, 0, 1]
