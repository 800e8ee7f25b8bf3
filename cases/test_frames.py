"""What a frame is made of survives its way through the map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.agent.sink import udp_counters
from harness.traffic.frames import CHECKSUMS

if TYPE_CHECKING:
    from harness.casework import Casework


@pytest.mark.proves(
    "cpu_map_kthread_run", "a frame becomes an skb of the same bytes, of 60 to 1514"
)
@pytest.mark.proves("cpu_map_build_skb", "a frame becomes an skb of the same bytes")
@pytest.mark.parametrize("size", [60, 61, 127, 128, 129, 512, 1500, 1514])
def test_every_size_arrives_whole(lab: Casework, size: int) -> None:
    lab.steer(lab.cpus)
    lab.send(frames=40, size=size)  # the payload is compared to the byte at the end
    assert lab.close().socket == 40


@pytest.mark.proves("cpu_map_kthread_run", "a frame of any protocol becomes an skb")
def test_vlan_frames_are_redirected(lab: Casework) -> None:
    lab.steer(lab.cpus, socket=False)
    lab.send(frames=40, vlan=100)
    assert lab.close().delivered == 40


@pytest.mark.proves("cpu_map_kthread_run", "a frame of any protocol becomes an skb")
def test_tcp_frames_are_redirected(lab: Casework) -> None:
    lab.steer(lab.cpus, socket=False)
    lab.send(frames=40, protocol="tcp", size=80)
    assert lab.close().delivered == 40


COUNTERS = ("NoPorts", "InCsumErrors", "InErrors")


@pytest.mark.proves("cpu_map_kthread_run", "the stack checks the checksum of what it delivers")
@pytest.mark.parametrize(
    "mode",
    [
        "native",
        pytest.param(
            "generic",
            marks=pytest.mark.proves("cpu_map_generic_redirect", "an skb's checksum is checked"),
        ),
        "live",
    ],
)
def test_the_stack_checks_the_checksum(lab: Casework, mode: str) -> None:
    """No frame of a cpumap's claims that somebody else has done so (CHECKSUM_NONE)."""
    lab.steer(lab.cpus, mode="generic" if mode == "generic" else "native", socket=False, stack=True)
    before = udp_counters(lab.guest.calls)

    def counted() -> tuple[int, ...]:
        now = udp_counters(lab.guest.calls)
        return tuple(now[name] - before[name] for name in COUNTERS)

    inject = lab.live if mode == "live" else lab.send
    for checksum in CHECKSUMS:
        inject(40, checksum=checksum)
    assert lab.close().delivered == 120
    expected = (80, 40, 40)  # right or none: to a port that nobody listens to
    lab.wait_for(lambda: counted() == expected)
    assert counted() == expected
