"""Does the guest's clock run as fast as the host's, and has every CPU a timer?

A kernel calibrates its TSC against other timers while it boots (arch/x86/kernel/tsc.c,
native_calibrate_tsc), and on a starved host the two are read at different times. The rate stays
wrong for good: time-outs end early or late, and a snapshot hands it on to every clone.

One without a PM timer (CONFIG_X86_PM_TIMER) verifies its CPUs' own timers against jiffies, too, and
goes without them if they seem off (arch/x86/kernel/apic/apic.c, calibrate_APIC_clock): such a guest
stands still for seconds and takes itself for locked up.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.agent.syscalls import Buffer
from harness.errors import ClockOff

if TYPE_CHECKING:
    from harness.agent.syscalls import Syscalls

CLOCK_MONOTONIC = 1
SPAN_S = 0.25
TOLERANCE = 0.2
NO_TIMERS = "APIC timer disabled due to verification failure"
"""What a kernel says when it goes on without its CPUs' own timers."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The guest's clock, read between two readings of the host's (seconds)."""

    before: float
    guest: float
    after: float


def read_clock(calls: Syscalls) -> Reading:
    """Read the guest's CLOCK_MONOTONIC (clock_gettime(2))."""
    spec = Buffer(16, returned=True)
    before = time.monotonic()
    calls.must("clock_gettime", CLOCK_MONOTONIC, spec)
    after = time.monotonic()
    seconds, nanoseconds = struct.unpack("<qq", spec.content)
    return Reading(before, seconds + nanoseconds / 1e9, after)


def check_clock(calls: Syscalls, first: Reading) -> None:
    """Compare the guest's clock with the host's, over the time since a first reading.

    Raises:
        ClockOff: it runs more than a fifth too fast or too slow, however the readings are taken.
    """
    time.sleep(max(0.0, first.after + SPAN_S - time.monotonic()))
    last = read_clock(calls)
    shortest, longest = last.before - first.after, last.after - first.before
    passed = last.guest - first.guest
    if not shortest * (1 - TOLERANCE) <= passed <= longest * (1 + TOLERANCE):
        raise ClockOff(
            f"the guest's clock went on by {passed:.2f} s in {longest:.2f} s: its kernel "
            "calibrated the TSC wrongly",
            remedy="try again when the host is less busy, or give the rate (tsc_early_khz=)",
        )


def check_timers(dmesg: str) -> None:
    """See in a kernel's messages that its CPUs have timers of their own.

    Raises:
        ClockOff: it has taken them out of use.
    """
    if NO_TIMERS in dmesg:
        raise ClockOff(
            f"the guest's CPUs have no timers of their own ({NO_TIMERS})",
            remedy="try again when the host is less busy, or build the kernel with "
            "CONFIG_X86_PM_TIMER",
        )
