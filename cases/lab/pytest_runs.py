"""Cases that end in every way there is, and what pytest's own report says of such."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

CASES = '''
import os
import re
import socket
import pytest
import harness.patience
from harness.errors import TrafficError
from harness.shell.gdb import open_stub
from harness.traffic.frames import build_frames
from harness.traffic.socket import SocketInjector

harness.patience.VAIN = 2  # of the first cases


def test_passes(lab):
    assert lab.patience == 1.0
    lab.steer(1)
    lab.send(frames=10)


def test_fails(lab):
    lab.steer(1)
    lab.send(frames=10)
    assert lab.close().delivered == 11


def test_fails_by_pytest(lab):
    with pytest.raises(ZeroDivisionError):
        lab.steer(1)


def test_skips(lab):
    pytest.skip("not today")


@pytest.mark.xfail(reason="known", strict=True)
def test_expected_to_fail(lab):
    assert lab.cpus == "none"


def test_doubled_frame(lab):
    """It asserts nothing; one frame comes twice."""
    run = hurried(lab.steer(1))
    twin = build_frames([run.flow(frames=1)]).data[0]
    lab.send(frames=10)
    lab.guest.machine.nics[0].send(twin)


def test_missing_frame(lab, monkeypatch):
    """It asserts nothing; one frame is said to be sent, and is not."""
    run = hurried(lab.steer(1))
    lab.send(frames=10)
    monkeypatch.setattr(SocketInjector, "send", lambda _, frames, **__: len(frames))
    lab.send(frames=1)


def test_lost_events(lab):
    lab.guest.write("/sys/kernel/tracing/buffer_size_kb", "4")
    hurried(lab.steer(1))
    lab.send(frames=20000)


def test_lost_guest(lab):
    lab.steer(1)
    os.kill(lab.guest.machine.process.pid, 9)
    lab.send(frames=10)


def test_error_of_the_lab(lab):
    raise TrafficError("the cable is cut")


def test_wrong_request(lab):
    lab.steer(1)
    lab.steer(1)


def test_crash_that_fails(lab):
    lab.guest.write("/proc/sysrq-trigger", "c")
    lab.steer(1)


def test_crash_that_hides_behind_an_assertion(lab):
    complain(lab)
    assert False, "the case has another opinion"


def test_crash_that_passes(lab):
    complain(lab)


RUNS = []


def test_int3_once(lab):
    """Its first run is spoiled, and hides that behind an assertion."""
    RUNS.append(lab)
    if len(RUNS) == 1:
        plant_int3(lab, "__x64_sys_bpf")
        with pytest.raises(ZeroDivisionError):
            lab.steer(1)
    lab.steer(1)
    lab.send(frames=10)
    assert lab.guest is not RUNS[0].guest


def test_int3_twice(lab):
    plant_int3(lab, "__x64_sys_bpf")
    lab.steer(1)


def test_leftover_kthread(lab, monkeypatch):
    run = lab.steer(1)
    run.dismantle = lambda: None
    monkeypatch.setattr("harness.casework.GONE_S", 1.0)


def test_waits_less_after_cases_that_waited_in_vain(lab):
    assert lab.patience == 0.25


@pytest.mark.machine(cpus=1, memory_mib=256, append="rdinit=/nope root=/dev/nope")
def test_boot_that_panics(lab):
    pass


@pytest.mark.machine(cpus=99)
def test_guest_that_cannot_be(lab):
    pass


def test_without_a_guest():
    pass


def hurried(run):
    """Wait for a rest that does not come only as long as a loaded machine needs for it."""
    run._rest_s = 5.0
    return run


def plant_int3(lab, function):
    """Have the kernel run into an int3 that it did not put there, as a late one is to it."""
    symbols = lab.guest.calls.link.call("read", "/proc/kallsyms", 32 << 20).decode()
    address = re.search(f"([0-9a-f]+) T {function}\\n", symbols)[1]
    with socket.socket(socket.AF_UNIX) as gdb:
        gdb.settimeout(60)
        gdb.connect(str(open_stub(lab.guest.machine)))
        for packet in (f"M{address},1:cc", "D"):
            gdb.sendall(f"+${packet}#{sum(packet.encode()) % 256:02x}".encode())
            said = ""
            while "$OK#" not in said:
                said += gdb.recv(1).decode() or pytest.fail(f"{packet}: the stub said {said!r}")


def complain(lab):
    """A real report that stops nothing: a worker waits too long for a kthread that is held."""
    lab.guest.write("/proc/sys/kernel/hung_task_timeout_secs", "1")
    run = lab.steer(1)
    with lab.hold(1):
        run.cpumap.remove(1)
        lab.wait_for(lambda: "blocked for more than" in lab.guest.dmesg())
'''


@dataclass
class Outcome:
    """One case's outcome in pytest's own report."""

    kind: str
    told: str = ""
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str | None:
        """The lab's verdict, if it came to one."""
        return self.properties.get("verdict")


@dataclass
class Session:
    """What one run of pytest came to."""

    status: int
    output: str
    outcomes: dict[str, Outcome]


def kept(session: Session, case: str) -> Path:
    """Return where it is kept what is left of a case."""
    return Path(session.outcomes[case].properties["artifacts"])


def outcome(case: ET.Element) -> Outcome:
    """Return what a JUnit report says of a case."""
    properties = {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
    for kind in ("failure", "error", "skipped"):
        if (found := case.find(kind)) is not None:
            return Outcome(kind, f"{found.get('message', '')}\n{found.text or ''}", properties)
    return Outcome("passed", "", properties)
