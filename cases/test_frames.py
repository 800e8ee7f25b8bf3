"""What a frame is made of survives its way through the map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
