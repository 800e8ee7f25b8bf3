from __future__ import annotations

import struct
from typing import Any

import pytest

from harness.errors import ClockOff
from harness.machine import clock
from harness.machine.clock import check_clock, check_timers, read_clock

WAY_S = 0.01
"""What a call takes on its way there, and on its way back."""


class World:
    """A host's time that only sleeping and calls pass, and a guest's that runs at some rate."""

    def __init__(self, rate: float) -> None:
        self.now = 1000.0
        self.rate = rate

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def must(self, name: str, *args: Any) -> None:
        assert (name, args[0]) == ("clock_gettime", 1)
        self.now += WAY_S
        args[1].data = struct.pack("<qq", *divmod(int(self.now * self.rate * 1e9), 10**9))
        self.now += WAY_S


def take(monkeypatch: pytest.MonkeyPatch, rate: float, meanwhile: float) -> float:
    world: Any = World(rate)
    monkeypatch.setattr(clock, "time", world)
    first = read_clock(world)
    world.sleep(meanwhile)
    check_clock(world, first)
    return float(world.now) - first.after


@pytest.mark.parametrize("rate", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("meanwhile", [0.0, 2.0])
def test_a_clock_that_keeps_time(
    monkeypatch: pytest.MonkeyPatch, rate: float, meanwhile: float
) -> None:
    took = take(monkeypatch, rate, meanwhile)
    assert took == pytest.approx(max(meanwhile, clock.SPAN_S) + 2 * WAY_S)


@pytest.mark.parametrize("rate", [0.3, 0.7, 1.5, 3])
@pytest.mark.parametrize("meanwhile", [0.0, 2.0])
def test_a_clock_that_does_not(
    monkeypatch: pytest.MonkeyPatch, rate: float, meanwhile: float
) -> None:
    with pytest.raises(ClockOff, match=r"went on by \d"):
        take(monkeypatch, rate, meanwhile)


def test_cpus_without_timers_of_their_own() -> None:
    check_timers("[    0.1] smpboot: CPU0: QEMU TCG CPU\n[    0.2] APIC timer verified\n")
    with pytest.raises(ClockOff, match="no timers of their own") as caught:
        check_timers("[    0.2] APIC timer disabled due to verification failure\n")
    assert "CONFIG_X86_PM_TIMER" in caught.value.remedy
