"""What held the program, the map or the NIC lets go while frames are queued: they arrive still."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from harness.agent.bpf import MAP_GET_FD_BY_ID, OBJ_PIN, bpf, is_alive
from harness.agent.netlink import set_xdp
from harness.agent.syscalls import Buffer

if TYPE_CHECKING:
    from harness.casework import Casework

QUEUED = 100
ASIDE = 2
"""The agent's thread that sets the interface down, which may wait for the CPU that is held."""
FLAGS = "/sys/class/net/eth0/flags"
IFF_UP = 1
PIN = Buffer(b"/sys/fs/bpf/cpus\0")


def queue(lab: Casework) -> None:
    """Put frames into the rings; call it with their kthreads held."""
    lab.send(frames=QUEUED)
    lab.run.wait_offered()


def wait_map_gone(lab: Casework) -> bool:
    """Wait until nobody holds the map any more, and return whether it is so."""
    guest, number = lab.guest, lab.run.map_id
    lab.wait_for(lambda: not is_alive(guest.calls, MAP_GET_FD_BY_ID, number))
    return not is_alive(guest.calls, MAP_GET_FD_BY_ID, number)


@pytest.mark.proves(
    "cpu_map_kthread_run", "frames that are queued are delivered, even if the program is detached"
)
def test_detaching_the_link_keeps_what_is_queued(lab: Casework) -> None:
    run = lab.steer(3)
    with lab.hold(3):
        queue(lab)
        run.links[0].detach()
    assert run.wait_rest()
    assert len(lab.kthreads()) == 1
    assert lab.close().delivered == QUEUED


@pytest.mark.proves(
    "cpu_map_kthread_run", "frames that are queued are delivered, even if the program is detached"
)
def test_detaching_by_netlink_keeps_what_is_queued(lab: Casework) -> None:
    run = lab.steer(3)
    run.detach()
    set_xdp(lab.guest.calls, lab.guest.ifindex["eth0"], run.programs[0], "native")
    with lab.hold(3):
        queue(lab)
        set_xdp(lab.guest.calls, lab.guest.ifindex["eth0"], None, "native")
    assert run.wait_rest()
    assert len(lab.kthreads()) == 1
    assert lab.close().delivered == QUEUED


@pytest.mark.proves("cpu_map_free", "frames queued in a map that is closed are delivered")
@pytest.mark.proves("cpu_map_kthread_run", "told to stop, it empties its ring before it ends")
def test_killing_the_last_process_that_holds_the_map(lab: Casework) -> None:
    run = lab.steer(3)
    holder = lab.guest.spawn("pause")
    with lab.hold(3):
        run.dismantle()
        queue(lab)  # program, link and map are the holder's alone now
        lab.guest.kill(holder)
        assert wait_map_gone(lab)
        assert len(lab.kthreads()) == 1  # it has its ring to empty first
    assert lab.wait_kthreads(0) == []
    assert lab.close().delivered == QUEUED


@pytest.mark.proves("cpu_map_free", "a pinned map outlives its descriptors")
@pytest.mark.proves("cpu_map_free", "frames queued in a map that is closed are delivered")
@pytest.mark.proves("cpu_map_kthread_run", "told to stop, it empties its ring before it ends")
def test_unlinking_the_last_pin_of_the_map(lab: Casework) -> None:
    run = lab.steer(3)
    bpf(lab.guest.calls, OBJ_PIN, struct.pack("<QI", 0, run.cpumap.fd), {0: PIN}).must("pin")
    with lab.hold(3):
        queue(lab)
        run.dismantle()
        assert lab.wait_left([f"map {run.map_id}"]) == [f"map {run.map_id}"]
        lab.guest.calls.must("unlink", PIN)
        assert wait_map_gone(lab)
        assert len(lab.kthreads()) == 1
    assert lab.wait_kthreads(0) == []
    assert lab.close().delivered == QUEUED


@pytest.mark.proves("cpu_map_free", "frames queued in a map that is closed are delivered")
@pytest.mark.proves("cpu_map_kthread_run", "told to stop, it empties its ring before it ends")
def test_closing_a_map_of_many_entries(lab: Casework) -> None:
    run = lab.steer((2, 3), entries=dict.fromkeys(lab.cpus, 64))
    with lab.hold(2, 3):
        queue(lab)
        run.dismantle()
        assert wait_map_gone(lab)
    assert lab.wait_kthreads(0) == []
    assert [row.delivered for row in lab.close().per_cpu] == [0, 0, QUEUED // 2, QUEUED // 2]


@pytest.mark.proves(
    "cpu_map_kthread_run", "frames of an interface that went down are handed to the stack"
)
def test_setting_the_interface_down_keeps_what_is_queued(lab: Casework) -> None:
    run = lab.steer(3, socket=False)  # no route leads to one from an interface that is down
    link, flags = lab.guest.calls.link, int(lab.guest.read(FLAGS), 16)
    with lab.hold(3):
        queue(lab)
        down = link.send("write", FLAGS, hex(flags & ~IFF_UP).encode(), task=ASIDE)
    link.wait(down)
    assert run.wait_rest()
    lab.guest.write(FLAGS, hex(flags))
    lab.send(frames=QUEUED)
    assert lab.close().delivered == 2 * QUEUED


@pytest.mark.proves("cpu_map_redirect", "several NICs share a map, which outlives them")
@pytest.mark.machine(nics=2)
def test_a_nic_that_is_removed_leaves_the_map_to_the_others(lab: Casework) -> None:
    run = lab.steer(lab.cpus, nics=(0, 1))
    run.send([run.flow(QUEUED, nic=0), run.flow(QUEUED, nic=1)])
    assert run.wait_rest()  # a frame that outlives its NIC is used after free
    lab.guest.remove_nic(1)
    assert not lab.guest.has_interface("eth1")
    assert len(lab.kthreads()) == len(lab.cpus)
    run.send([run.flow(QUEUED, nic=0)])
    assert lab.close().delivered == 3 * QUEUED


@pytest.mark.proves("cpu_map_redirect", "several NICs share a map, which outlives them")
@pytest.mark.kconfig("NET_NS")
@pytest.mark.machine(nics=2)
def test_a_network_namespace_that_is_destroyed_leaves_the_map(lab: Casework) -> None:
    lab.guest.must_own("NIC that outlives its network namespace")  # as a veth pair does not
    with lab.guest.netns(nic=1):
        run = lab.steer(lab.cpus, nics=(1,))
        run.send([run.flow(QUEUED, nic=1)])
        books = lab.close()
    lab.wait_for(lambda: lab.guest.has_interface("eth1"))  # it comes back when the other is gone
    assert lab.guest.has_interface("eth1")
    assert len(lab.kthreads()) == len(lab.cpus)
    assert books.delivered == QUEUED
