from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.machine.command import (
    KERNEL_ARGS,
    SSH_MAC,
    TSC_HZ,
    Wiring,
    backends,
    escape,
    hardware,
    kernel,
    nic_device,
)
from harness.machine.topology import Topology

WIRING = Wiring(
    agent=10,
    qmp=11,
    watch=9,
    nics=((12,), (13,)),
    console=Path("/run/a,b/console.log"),
    firmware=Path("/run/firmware.log"),
    ram=Path("/run/ram"),
)


def following(args: list[str], option: str) -> list[str]:
    """Return what follows each occurrence of an option."""
    return [args[at + 1] for at, arg in enumerate(args) if arg == option]


def test_every_descriptor_is_inherited() -> None:
    assert WIRING.fds == (10, 11, 9, 12, 13)


def test_the_machine() -> None:
    args = hardware(Topology(cpus=2, memory_mib=256, nics=0), "qemu64")
    assert following(args, "-smp") == ["2"]
    assert following(args, "-m") == ["256M"]
    assert following(args, "-cpu") == ["qemu64"]
    assert "-no-reboot" in args
    assert not [device for device in following(args, "-device") if "net" in device]


def test_each_nic_is_a_device_and_a_back_end() -> None:
    topology = Topology(nics=2)
    nics = [arg for arg in following(hardware(topology, "qemu64"), "-device") if "net-pci" in arg]
    assert [nic.split(",")[1] for nic in nics] == ["netdev=n0", "netdev=n1"]
    for nic, device in zip(nics, topology.devices, strict=True):
        assert f"mac={device.mac}" in nic
        assert {"guest_tso4=off", "guest_tso6=off", "guest_ecn=off", "guest_ufo=off"} < set(
            nic.split(",")
        )
    assert following(backends(topology, WIRING, share_ram=False), "-netdev") == [
        "dgram,id=n0,local.type=fd,local.str=12",
        "dgram,id=n1,local.type=fd,local.str=13",
    ]


def test_a_nic_for_ssh_comes_behind_the_others_and_changes_nothing_else() -> None:
    plain, ssh = Topology(nics=2), Topology(nics=2, ssh=True)
    before, args = hardware(plain, "qemu64"), hardware(ssh, "qemu64")
    assert args[: len(before)] == before
    assert args[len(before) :] == ["-device", f"virtio-net-pci,netdev=ssh,mac={SSH_MAC},romfile="]
    before, args = (backends(each, WIRING, share_ram=False) for each in (plain, ssh))
    assert args[: len(before)] == before
    (netdev,) = following(args[len(before) :], "-netdev")
    assert {"restrict=on", "hostfwd=tcp:127.0.0.1:0-192.168.76.15:22"} < set(netdev.split(","))


def test_nodes_share_cpus_and_memory() -> None:
    topology = Topology(cpus=4, memory_mib=512, nics=2, nodes=2)
    args = hardware(topology, "qemu64")
    assert following(args, "-machine") == ["q35"]
    assert following(args, "-smp") == ["4,sockets=2"]
    assert following(args, "-numa") == [
        "node,nodeid=0,cpus=0-1,memdev=ram0",
        "node,nodeid=1,cpus=2-3,memdev=ram1",
    ]
    ram = "memory-backend-file,id=ram{},size=256M,mem-path=/run/ram,share=off{}"
    assert following(backends(topology, WIRING, share_ram=False), "-object") == [
        ram.format(0, ""),
        ram.format(1, ",offset=256M"),
    ]


def test_a_tap_of_several_queues() -> None:
    topology = Topology(nics=2, taps=(4,))
    wiring = dataclasses.replace(WIRING, nics=((12, 13, 14, 15), (16,)))
    assert following(backends(topology, wiring, share_ram=False), "-netdev") == [
        "tap,id=n0,fds=12:13:14:15,vhost=off",
        "dgram,id=n1,local.type=fd,local.str=16",
    ]
    nics = [
        device for device in following(hardware(topology, "qemu64"), "-device") if "net" in device
    ]
    assert ["mq=on,vectors=10" in nic for nic in nics] == [True, False]
    assert wiring.fds == (10, 11, 9, 12, 13, 14, 15, 16)


def test_a_tap_of_one_queue_is_the_same_machine() -> None:
    """A snapshot serves both."""
    topology = Topology(nics=2, taps=(1,))
    assert hardware(topology, "qemu64") == hardware(Topology(nics=2), "qemu64")
    (tap, _) = following(backends(topology, WIRING, share_ram=False), "-netdev")
    assert tap == "tap,id=n0,fd=12,vhost=off"


def test_one_node_is_the_machines_own_memory() -> None:
    args = hardware(Topology(), "qemu64")
    assert following(args, "-machine") == ["q35,memory-backend=ram0"]
    assert not following(args, "-numa")


def test_a_nic_may_be_without_mergeable_buffers() -> None:
    for mergeable in (True, False):
        args = hardware(Topology(mrg_rxbuf=mergeable), "qemu64")
        (nic,) = [device for device in following(args, "-device") if "net-pci" in device]
        assert ("mrg_rxbuf=off" in nic.split(",")) is not mergeable


@pytest.mark.parametrize(("share", "told"), [(True, "share=on"), (False, "share=off")])
def test_only_a_template_shares_its_ram(share: bool, told: str) -> None:
    (ram,) = following(backends(Topology(nics=2), WIRING, share_ram=share), "-object")
    assert ram.startswith("memory-backend-file,id=ram0,size=512M,mem-path=/run/ram,")
    assert ram.endswith(told)


def test_spare_cpus_are_devices_until_they_are_unplugged() -> None:
    topology = Topology(cpus=2, spare_cpus=2)
    args = hardware(topology, "qemu64,+x2apic")
    assert following(args, "-smp") == ["2,sockets=20,cores=1,threads=1,maxcpus=20"]
    spares = [device for device in following(args, "-device") if "x86_64-cpu" in device]
    place = "core-id=0,thread-id=0"
    assert spares == [f"qemu64-x86_64-cpu,id=cpu{n},socket-id={n},{place}" for n in (2, 3)]
    left = following(hardware(topology, "qemu64", {"cpu3"}), "-device")
    assert [device for device in left if "x86_64-cpu" in device] == spares[:1]
    boot = kernel(Path("/k"), Path("/i"), topology, None)
    assert "possible_cpus=4" in following(boot, "-append")[0].split()


def test_a_nic_that_can_be_unplugged_has_a_port_that_stays() -> None:
    topology = Topology(nics=2, pluggable=True)
    whole = following(hardware(topology, "qemu64"), "-device")
    assert "pcie-root-port,id=port1,chassis=2" in whole
    (nic,) = [device for device in whole if "id=nic1" in device]
    assert nic.startswith("virtio-net-pci,id=nic1,bus=port1,netdev=n1,mac=")
    assert following(hardware(topology, "qemu64", {"nic1"}), "-device") == [
        device for device in whole if device != nic
    ]


def test_what_is_plugged_in_is_what_was_there() -> None:
    """QMP takes true and false where the command line takes on and off."""
    device = nic_device(Topology(nics=1, pluggable=True), 0)
    assert device["guest_announce"] is False
    (nic,) = [
        argument
        for argument in following(hardware(Topology(pluggable=True), "qemu64"), "-device")
        if "virtio-net-pci" in argument
    ]
    assert nic.endswith("guest_announce=off")
    assert len(nic.split(",")) == len(device)


def test_a_path_with_a_comma() -> None:
    args = backends(Topology(nics=2), WIRING, share_ram=False)
    assert "file,id=console,path=/run/a,,b/console.log" in following(args, "-chardev")
    assert escape(Path("a,,b")) == "a,,,,b"


def test_back_ends_are_no_part_of_the_machine() -> None:
    """Template and clone differ in them, but must be the same machine."""
    assert not [arg for arg in hardware(Topology(), "qemu64") if "/" in arg or "fd=" in arg]


@pytest.mark.parametrize(
    ("append", "hz", "end"),
    [
        ("", None, ""),
        ("slub_debug=FZPU", None, " slub_debug=FZPU"),
        ("  quiet   nosmp ", 250, f" lpj={TSC_HZ // 250} quiet nosmp"),
        ("", 1000, f" lpj={TSC_HZ // 1000}"),
    ],
)
def test_what_the_user_adds_comes_last(append: str, hz: int | None, end: str) -> None:
    args = kernel(Path("/k/vmlinux"), Path("/i.cpio"), Topology(append=append), hz)
    assert following(args, "-kernel") == ["/k/vmlinux"]
    assert following(args, "-initrd") == ["/i.cpio"]
    assert following(args, "-append") == [f"{KERNEL_ARGS}{end}"]


@pytest.mark.parametrize(
    "needed",
    [
        "console=ttyS0",
        "rdinit=/init",
        "panic=-1",  # a panic ends QEMU
        "no_timer_check",  # it kills one kernel in ten on a starved host
    ],
)
def test_what_every_guest_needs(needed: str) -> None:
    assert needed in KERNEL_ARGS.split()
