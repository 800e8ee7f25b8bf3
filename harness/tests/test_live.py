"""Live runs, against an agent that only writes down what it is asked."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest

from harness.agent.bpf import MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, PROG_TEST_RUN, Map, Program
from harness.agent.live import FIRST_TASK, TASKS, LiveRun, run_live
from harness.agent.syscalls import NR, Syscalls
from harness.errors import GuestError, TrafficError, UserError

FRAME = bytes(range(60))


class FakeLink:
    """Carries out live runs on paper: `lost` frames of each are never made."""

    def __init__(self, *, lost: int = 0, refuse: int = 0) -> None:
        self.lost, self.refuse = lost, refuse
        self.numbers: dict[int, int] = {}
        self.affinity: dict[int, int] = {}
        self.ran: list[tuple[int, tuple[int, ...], bytes, tuple[int, ...]]] = []
        self.finished: list[bool] = []
        self.waited_after: list[int] = []

    def send(self, op: str, *args: Any, task: int) -> Any:
        assert op == "syscall"
        number, values, buffers, pointers, returned = args
        if number == NR["sched_setaffinity"]:
            mask = int.from_bytes(buffers[values[2][0]], "little")
            self.affinity[task] = mask.bit_length() - 1
            return 0, 0, []
        assert number == NR["bpf"]
        front = buffers[0]
        at = {offset: buffers[to] for _, offset, to, _ in pointers}
        if values[0] == PROG_TEST_RUN:
            return self._run(task, front, at)
        cpu = int.from_bytes(at[8], "little")
        if values[0] == MAP_UPDATE_ELEM:
            (self.numbers[cpu],) = struct.unpack("<I", at[16])
            return 0, 0, []
        assert values[0] == MAP_LOOKUP_ELEM
        assert all(self.finished)
        return 0, 0, [struct.pack("<I", self.numbers[cpu]) for _ in returned]

    def _run(self, task: int, front: bytes, at: dict[int, bytes]) -> Any:
        attr = struct.unpack_from("<4I2Q4I2Q3I", front)
        self.ran.append((task, attr, at[16], struct.unpack("<6I", at[48])))
        self.numbers[self.affinity[task]] += attr[6] - self.lost
        self.finished.append(False)
        return -1 if self.refuse else 0, self.refuse, len(self.finished)

    def wait(self, ticket: Any, *, deadline_s: float | None = None) -> Any:
        value, error, rest = ticket
        if isinstance(rest, int):
            assert deadline_s == 7.0
            self.waited_after.append(len(self.ran))
            self.finished[rest - 1] = True
            rest = []
        return value, error, rest


def live(link: FakeLink, cpus: int, *, repeat: int = 300, **how: Any) -> None:
    calls = Syscalls(link)  # type: ignore[arg-type]
    numbers = Map(calls, 5, key_size=4, value_size=4, max_entries=1024)
    runs = {
        cpu: LiveRun(Program(calls, 9), FRAME, 1000 * cpu, repeat, ifindex=3) for cpu in range(cpus)
    }
    run_live(calls, numbers, runs, batch=256, deadline_s=7.0, **how)


def test_runs_are_made_on_their_cpus_at_the_same_time() -> None:
    link = FakeLink()
    live(link, 16)
    assert link.affinity == {FIRST_TASK + cpu: cpu for cpu in range(16)}
    assert [task for task, *_ in link.ran] == [FIRST_TASK + cpu for cpu in range(16)]
    assert link.waited_after == [16] * 16
    assert link.numbers == {cpu: 1000 * cpu + 300 for cpu in range(16)}


def test_meanwhile_all_are_under_way() -> None:
    link, seen = FakeLink(), list[tuple[int, int]]()
    meanwhile = lambda: seen.append((len(link.ran), sum(link.finished)))  # noqa: E731
    live(link, 3, meanwhile=meanwhile)
    assert seen == [(3, 0)]


def test_the_kernel_is_told_what_to_run() -> None:
    link = FakeLink()
    live(link, 1)
    ((_, attr, frame, context),) = link.ran
    prog_fd, _, data_size_in, _, _, _, repeat, _, ctx_size_in, _, _, _, flags, _, batch = attr
    assert (prog_fd, data_size_in, repeat, ctx_size_in, flags, batch) == (9, 60, 300, 24, 2, 256)
    assert frame == FRAME
    assert context == (0, 60, 0, 3, 0, 0)


def test_frames_that_were_not_made_are_missed() -> None:
    with pytest.raises(TrafficError, match="CPU 0 made 299 of 300 live frames"):
        live(FakeLink(lost=1), 2)


def test_a_refusal_is_the_kernels_own() -> None:
    with pytest.raises(GuestError, match="live frames failed in the guest: EINVAL"):
        live(FakeLink(refuse=errno.EINVAL), 1)


def test_the_agent_has_only_so_many_threads() -> None:
    with pytest.raises(UserError, match="live runs on 30 CPUs: 29 at most"):
        live(FakeLink(), TASKS - FIRST_TASK + 1)
