"""A guest that ends itself is noticed, and nothing else is taken for it."""

from __future__ import annotations

import json
import queue
import socket

import pytest

from harness.machine.watcher import ENDED, ENDS, Watcher, hear_end
from harness.tests.fakes import LATE_S


def event(name: str, **data: object) -> bytes:
    return json.dumps({"event": name, "data": data}).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "how"),
    [
        (event("SHUTDOWN", guest=True, reason="guest-reset"), ENDS["guest-reset"]),
        (event("SHUTDOWN", guest=True, reason="guest-shutdown"), ENDS["guest-shutdown"]),
        (event("SHUTDOWN", guest=True, reason="what comes in 2030"), ENDED),
        (event("SHUTDOWN", guest=False, reason="host-signal"), ""),
        (event("STOP"), ""),
        (b'{"QMP": {"version": {}, "capabilities": []}}\r\n', ""),
        (b'{"return": {}}\n', ""),
        (b'{"return": {"status": "running", "running": true}}\n', ""),
        (b'{"return": {"status": "shutdown", "running": false}}\n', ENDED),
        (b'{"event": "SHUTD', ""),
    ],
)
def test_what_is_heard(line: bytes, how: str) -> None:
    assert hear_end(line) == how


def test_it_tells_once_and_can_be_closed_then() -> None:
    ours, theirs = socket.socketpair()
    told = queue.Queue[str]()
    watcher = Watcher(ours, told.put)
    with theirs.makefile("rwb", buffering=0) as qemu:
        assert json.loads(qemu.readline()) == {"execute": "qmp_capabilities"}
        assert json.loads(qemu.readline()) == {"execute": "query-status"}
        qemu.write(event("STOP") + 2 * event("SHUTDOWN", guest=True, reason="guest-reset"))
    assert told.get(timeout=LATE_S) == ENDS["guest-reset"]
    watcher.close()
    assert told.empty()
    theirs.close()


@pytest.mark.parametrize("qemu_first", [False, True])
def test_it_is_closed_while_it_listens(qemu_first: bool) -> None:
    ours, theirs = socket.socketpair()
    told: list[str] = []
    watcher = Watcher(ours, told.append)
    if qemu_first:
        theirs.close()
    watcher.close()
    assert told == []
    assert ours.fileno() == -1
    theirs.close()
