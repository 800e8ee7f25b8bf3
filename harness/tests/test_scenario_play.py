"""A scenario is played on a guest: what is done when, and what of it counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from harness.errors import GuestError, TrafficError
from harness.scenario import play
from harness.scenario.expect import Sight, find_failures
from harness.scenario.parts import Expect
from harness.scenario.play import Play
from harness.scenario.schema import Scenario
from harness.tests.ledger_worlds import Plan, World
from harness.tests.test_scenario_load import REPO
from harness.trace.events import CpumapEnqueue, CpumapKthread
from harness.trace.hops import Hop
from harness.trace.latency import measure_waits
from harness.trace.ledger import close_books
from harness.traffic.frames import Flow, Frames

if TYPE_CHECKING:
    from collections.abc import Callable

MAC = "52:54:00:63:70:00"


class Steering:
    """Takes down what is asked of it."""

    refuses: Callable[[str], int] = staticmethod(lambda _: 0)

    def __init__(self, guest: Any, plan: Any) -> None:
        self.log = guest.log
        self.plan = plan
        self.sent = 0
        self.maps = [SimpleNamespace(fd=n, remove=self._removes(n)) for n in range(plan.maps)]

    def _removes(self, number: int) -> Callable[[int], None]:
        return lambda cpu: self._do(f"delete {cpu} of map {number}")

    def _do(self, what: str) -> None:
        self.log.append((self.sent, what))
        if errno := self.refuses(what):
            raise GuestError(what, errno=errno)

    def set(self, cpu: int, qsize: int, prog: Any, *, map: int, onward: Any) -> None:
        self._do(f"set {cpu} {qsize} {prog} {map} {onward}")

    def start_set(self, cpu: int, qsize: int, prog: Any, **_: Any) -> str:
        self._do(f"start {cpu} {qsize} {prog}")
        return "started"

    def finish_set(self, started: str) -> None:
        self._do(f"finish {started}")

    def flow(self, frames: int, *, nic: int, **how: Any) -> Flow:
        return Flow(frames, "10.0.0.1", "10.0.0.2", MAC, **how)

    def inject(self, frames: Frames) -> None:
        self.sent += len(frames)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **how: self._do(" ".join(map(str, (name, *args, *how.values()))))


class Hold:
    def __init__(self, steering: Steering, cpu: int) -> None:
        self._steering, self._cpu = steering, cpu

    def __enter__(self) -> Self:
        self._steering._do(f"hold {self._cpu}")
        return self

    def __exit__(self, *_: object) -> None:
        self._steering._do(f"release {self._cpu}")


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(play, "Steering", Steering)
    monkeypatch.setattr(play, "Hold", Hold)
    monkeypatch.setattr(play, "load_verdicts", lambda _, verdicts: f"prog{verdicts}")
    monkeypatch.setattr(play, "load_onward", lambda _, cpumap, cpu: f"onto{cpumap.fd}:{cpu}")
    monkeypatch.setattr(Steering, "refuses", staticmethod(lambda _: 0))
    log: list[tuple[int, str]] = []
    return SimpleNamespace(
        log=log,
        mac=lambda _: MAC,
        tracer=SimpleNamespace(drain=lambda: log.append((-1, "drain"))),
        write=lambda path, text: log.append((-1, f"write {path} {text}")),
    )


def scenario(**more: Any) -> Scenario:
    entries = ({"cpu": 2, "qsize": 64},)
    keys: dict[str, Any] = {"name": "x", "entries": entries, "traffic": ({"frames": 1000},)}
    return Scenario.model_validate(keys | more).expand()


def played(guest: Any, **more: Any) -> Play:
    each = Play(guest, scenario(**more))
    guest.log.clear()
    each.run(lambda _: None)
    return each


def test_entries_are_made_before_frames_go(guest: Any) -> None:
    entries = (
        {"cpu": 1, "qsize": 8, "program": ("pass", "drop")},
        {"cpu": 2, "qsize": 9, "program": {"to_cpu": 3, "to_map": 1}},
        {"cpu": 3, "qsize": 7, "map": 1},
    )
    made = Play(guest, scenario(entries=entries, offline=(3,), nics=({"receive_on": 2},)))
    assert made.steering.plan.targets == (1, 2)
    assert made.steering.plan.maps == 2
    assert guest.log == [
        (-1, "write /sys/devices/system/cpu/cpu3/online 0"),
        (0, "unpins"),
        (0, "set 1 8 prog[2, 1] 0 ()"),
        (0, "set 2 9 onto1:3 0 (3,)"),
        (0, "set 3 7 None 1 ()"),
        (0, "receive_on 2 0"),
    ]


def test_steps_that_wait_stop_the_traffic(guest: Any) -> None:
    timeline = (
        {"do": "hold", "cpu": 2, "at": 0},
        {"do": "update", "cpu": 2, "qsize": 5, "at": 100, "after": "offered"},
        {"do": "release", "cpu": 2, "at": 700, "after": "offered"},
        {"do": "delete", "cpu": 2, "at": 701, "after": "rest"},
        {"do": "close", "after": "rest"},
    )
    each = played(guest, timeline=timeline)
    assert each.failures == []
    assert guest.log == [
        (0, "hold 2"),
        (100, "wait_offered"),
        (100, "start 2 5 None"),
        (700, "wait_offered"),
        (700, "release 2"),
        (700, "finish started"),
        (701, "wait_rest"),
        (701, "delete 2 of map 0"),
        (1000, "wait_rest"),
        (1000, "dismantle"),
    ]


def test_traffic_goes_on_up_to_the_next_step(guest: Any) -> None:
    steps = [{"do": "replace", "cpu": 2, "qsize": n, "at": 100 * n} for n in range(1, 6)]
    played(guest, timeline=tuple(steps))
    for number, (sent, what) in enumerate(guest.log, 1):
        assert what.startswith(f"set 2 {number} ")
        assert 100 * number <= sent <= (100 * (number + 1) if number < 5 else 1000)


def test_a_burst_waits_for_the_one_before(guest: Any) -> None:
    played(guest, traffic=({"frames": 20, "burst": 8}, {"frames": 3}))
    assert guest.log == [(9, "wait_rest"), (18, "wait_rest")]


def test_the_trace_is_read_while_frames_go(guest: Any) -> None:
    played(guest, traffic=({"frames": 20000},))
    assert guest.log == [(-1, "drain")] * 2


def test_steps_by_the_clock(guest: Any) -> None:
    timeline = ({"do": "delete", "cpu": 2, "seconds": 0.05}, {"do": "wait", "seconds": 0.0})
    played(guest, timeline=timeline)
    assert [what for _, what in guest.log] == ["delete 2 of map 0"]


def test_errnos_are_compared(guest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steering, "refuses", staticmethod(lambda w: 22 if "delete" in w else 0))
    timeline = (
        {"do": "delete", "cpu": 9, "errno": "EINVAL"},
        {"do": "delete", "cpu": 9, "errno": "E2BIG"},
        {"do": "delete", "cpu": 9},
        {"do": "update", "cpu": 3, "qsize": 9, "errno": "ENOMEM"},
    )
    assert played(guest, timeline=timeline).failures == [
        "timeline[1]: delete of CPU 9: expected E2BIG, found EINVAL",
        "timeline[2]: delete of CPU 9: expected success, found EINVAL",
        "timeline[3]: update of CPU 3: expected ENOMEM, found success",
    ]


def test_an_update_that_a_hold_delays_is_judged_at_its_end(
    guest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Steering, "refuses", staticmethod(lambda w: 12 if "finish" in w else 0))
    timeline = (
        {"do": "hold", "cpu": 2},
        {"do": "update", "cpu": 2, "qsize": 9},
        {"do": "release", "cpu": 2},
    )
    each = played(guest, timeline=timeline)
    assert each.failures == ["timeline[1]: update of CPU 2: expected success, found ENOMEM"]


def test_a_hold_that_cannot_be_is_no_answer_of_the_kernels(
    guest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Steering, "refuses", staticmethod(lambda w: 13 if "hold" in w else 0))
    timeline = ({"do": "hold", "cpu": 2}, {"do": "release", "cpu": 2})
    with pytest.raises(GuestError, match="hold 2"):
        played(guest, timeline=timeline)


def test_what_the_sender_stumbles_over_is_told(guest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise TrafficError("the guest takes no frames")

    monkeypatch.setattr(Steering, "inject", fail, raising=False)
    with pytest.raises(TrafficError):
        played(guest, timeline=({"do": "delete", "cpu": 2, "at": 500},))


def test_objects_go_into_the_guest_once(guest: Any) -> None:
    path = str(REPO / "build" / "guest" / "steer_vlan.bpf.o")
    calls: list[Any] = []
    link = SimpleNamespace(call=lambda *args: calls.append(args[:2]))
    guest.calls = SimpleNamespace(link=link)
    made = Play(guest, scenario(steer={"object": path}))
    assert made.steering.plan.object == "/own-0.bpf.o"
    assert calls == [("write", "/own-0.bpf.o")]


BOOKS = close_books(*World(Plan(socket=True)).run())


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        ({"delivered": (0, 9999)}, None),
        ({"delivered": (0, 1)}, "delivered: expected 0 to 1 frames, found 48"),
        ({"shares": {2: 0.9}, "within": 0.1}, "share of CPU 2: expected 0.9 within 0.1, found "),
        ({"shares": {2: 0.5, 3: 0.5}, "within": 0.5}, None),
        ({"kthreads": 2}, None),
        ({"kthreads": 1}, "kthreads: expected 1, found 2"),
        ({"skbs": 2}, None),
        ({"skbs": 3}, "skbs: expected 3 packets, found 2"),
        ({"received": {0: 1, 1: 1}}, None),
        ({"received": {0: 2}}, "received on CPU 0: expected 2 frames, found 1"),
        ({"received": 2}, None),
        ({"socket": 47}, "socket: expected 47 frames, found 48"),
        ({"devices": 1}, "devices: expected 1 frames, found 0"),
        ({"in_order": True}, "order: frame 1 of flow 0 reached CPU 3 before frame 0"),
    ],
)
def test_expectations(expect: dict[str, Any], told: str | None) -> None:
    seen = (Hop(1, 0), Hop(1, 1), Hop())
    arrived = (Hop(1, 3, order=2), Hop(1, 3, order=1), Hop())
    failures = find_failures(
        Expect.model_validate(expect), BOOKS, Sight(seen, arrived, (0, 0, 0), kthreads=2)
    )
    if told is None:
        assert failures == []
    else:
        assert failures[0].startswith(told)


def test_order_is_that_of_a_flow_on_a_cpu() -> None:
    arrived = (Hop(1, 3, order=2), Hop(1, 2, order=1), Hop(1, 3, order=1), Hop(1, 3, order=3))
    in_order = Expect(in_order=True)
    assert find_failures(in_order, BOOKS, Sight((), arrived, (0, 0, 1, 0))) == []
    assert len(find_failures(in_order, BOOKS, Sight((), arrived, (0, 0, 0, 0)))) == 1


def test_waits_are_those_of_a_fifo() -> None:
    def queued(ts: int, n: int, drops: int = 0) -> CpumapEnqueue:
        return CpumapEnqueue(0, ts, 7, 4, n, drops, 2, 0)

    def taken(ts: int, n: int) -> CpumapKthread:
        return CpumapKthread(2, ts, 7, 4, n, 0, 2, 0, 0, 0, 0)

    known = SimpleNamespace(pinned=True)
    records = [queued(0, 8, 6), queued(1000, 1), taken(2000, 1), taken(5000, 2), taken(9000, 4)]
    waits = measure_waits(records, known)[2]  # type: ignore[arg-type]
    assert (waits.frames, waits.p50, waits.max) == (3, 4.0, 5.0)
    assert measure_waits(records, SimpleNamespace(pinned=False)) == {}  # type: ignore[arg-type]
