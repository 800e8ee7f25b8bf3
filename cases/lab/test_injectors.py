"""What every injector has to do, and that however frames get in, they close the same books."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

import harness.steering.traffic
from harness.errors import AgentLost, TrafficStalled
from harness.machine.topology import Topology
from harness.model.gates import LIVE_FRAMES
from harness.patience import wait_until
from harness.scenario.load import load_scenario
from harness.scenario.runner import run_scenario
from harness.steering import Plan, Steering
from harness.traffic.frames import build_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.guest import Guest
    from harness.lab import Lab
    from harness.scenario.runner import Outcome

MANY = 20_000
"""More frames than all buffers on their way hold."""
SMALL = Topology(cpus=2, memory_mib=384)


class Way(NamedTuple):
    """A guest, and an injector for it."""

    injector: str
    guest: Guest

    def steer(self) -> Steering:
        """Return a run whose frames get in this way."""
        plan = Plan((0, 1), {0: 16_384, 1: 16_384}, socket=False, live=self.injector == "live")
        return Steering(self.guest, plan)


@pytest.fixture(params=["socket", "tap", "live", "veth"])
def way(request: pytest.FixtureRequest, a_kernel: str, workshop: Lab) -> Iterator[Way]:
    injector: str = request.param
    if injector == "live" and not LIVE_FRAMES.holds(workshop.kernel(a_kernel).numbers):
        pytest.skip(f"{a_kernel} makes no live frames")
    taps = (2,) if injector == "tap" else ()
    with workshop.open(a_kernel, Topology(SMALL.cpus, SMALL.memory_mib, taps=taps)) as guest:
        if injector == "veth":
            guest.put_veth(0)
        yield Way(injector, guest)


@contextlib.contextmanager
def ctrl_c(after_s: float) -> Iterator[None]:
    """Press Ctrl-C after a while."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_an_injector_has_to_do(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    injector, guest = way
    inside = injector in (
        "live",
        "veth",
    )  # the guest makes them: it is the agent that is waited for
    run = way.steer()
    # nothing; some; at a rate; flows in turn
    told: list[int] = []
    assert run.send([]) == 0
    assert run.send([run.flow(600)], progress=told.append) == 600
    assert told == sorted(set(told))
    assert 0 < told[-1] <= 600
    assert run.send([run.flow(20)], rate=1e6) == 20
    assert run.send([run.flow(15), run.flow(15, source_port=7)]) == 30
    assert run.wait_rest()  # QEMU forgets what it holds for a guest that it stops (net/net.c)
    # a guest that is slow is waited for
    guest.machine.qmp("stop")
    with run.sending([run.flow(MANY)]) as done:
        assert not wait_until(done, 0.05)
        guest.machine.qmp("cont")
    # each frame is counted, and none is lost
    books = run.close()
    assert books.reasons == ()
    assert books.delivered + books.queue_drops == run.sent == 650 + MANY
    # Ctrl-C ends it, and the guest is there
    frames = build_frames([run.flow(MANY)], first=run.sent)
    guest.machine.qmp("stop")
    with pytest.raises(KeyboardInterrupt), ctrl_c(0.2):
        run.inject(frames)
    guest.machine.qmp("cont")
    assert guest.read("/proc/sys/kernel/ostype") == "Linux\n"
    # a guest that takes none for long
    monkeypatch.setattr(harness.steering.traffic, "STALL_S", 0.1)
    run.dismantle()
    run = way.steer()
    if injector == "veth":
        run.detach()  # who counts them
        with pytest.raises(TrafficStalled, match=r"took 0 of 9 frames and then none for \d+ s"):
            run.send([run.flow(9)])
    guest.machine.qmp("stop")
    if inside:
        with guest.calls.link.within(0.1), pytest.raises(AgentLost, match="did not answer"):
            run.send([run.flow(9)])
    else:
        with pytest.raises(TrafficStalled, match=rf"took \d+ of {MANY} frames and then none for"):
            run.send([run.flow(MANY)])
    # one that goes
    guest.own.process.kill()
    gone = "the link closed while" if inside else "the guest went away after 0 of 9 frames"
    with pytest.raises(AgentLost if inside else TrafficStalled, match=gone):
        run.send([run.flow(9)])


FRAMES = 1000
SCENARIO: dict[str, Any] = {
    "name": "one-of-three",
    "description": "two entries, one of which is held until its ring has overflowed",
    "entries": [{"cpu": 2, "qsize": 256}, {"cpu": 3, "qsize": 512}],
    "traffic": [{"frames": FRAMES}],
    "timeline": [
        {"at": 0, "do": "hold", "cpu": 2},
        {"at": 600, "after": "offered", "do": "release", "cpu": 2},
        {"at": 600, "after": "rest", "do": "wait"},
    ],
    # half of the first 600 are for the CPU that is held, and its ring has room for 256
    "expect": {"dropped": {2: 300 - 256}, "delivered": {2: 256 + 200, 3: 500}},
}


@pytest.fixture
def run(tmp_path: Path, workshop: Lab) -> Callable[..., Outcome]:
    def run(kernel: str, **keys: object) -> Outcome:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"kernel": kernel, **SCENARIO, **keys}, sort_keys=False))
        return run_scenario(workshop, load_scenario(path), kernel, root=tmp_path / "kept")

    return run


def books_of(outcome: Outcome) -> tuple[object, ...]:
    assert (outcome.record.verdict, outcome.record.reasons) == ("pass", ())
    assert outcome.imbalances == ()
    return outcome.record.ledger, outcome.record.per_cpu, outcome.socket


def test_all_close_the_same_books(run: Callable[..., Outcome]) -> None:
    books = [books_of(run("debian:7.3", injector=way)) for way in ("socket", "tap", "live", "veth")]
    assert books[1:] == [books[0]] * 3


def test_before_live_frames_there_is_veth(run: Callable[..., Outcome]) -> None:
    outcome = run("debian:5.10", injector="live")
    books_of(outcome)
    (note,) = outcome.notes
    assert note.startswith("5.10.")
    assert note.endswith("makes no live frames (5.18 does): veth instead")
