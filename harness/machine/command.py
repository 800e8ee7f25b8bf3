"""From a topology to QEMU's command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from harness.machine.topology import Nic, Topology

Device = dict[str, str | int | bool]
"""A device's properties, as QMP takes them."""
PORT = "cpumap-lab.agent"
PATIENCE_ARGS = (
    # a host that is busy elsewhere is no broken timer, no broken TSC
    " no_timer_check tsc=reliable"
    # and no lockup: 40 s rather than 20, yet within the deadline of a call
    " watchdog_thresh=20 rcupdate.rcu_cpu_stall_timeout=40"
    # it prints backtraces when the lab asks for them, be it by the serial line
    " sysrq_always_enabled"
    # nor need the kernel try its ciphers, still at it when the first cases run
    " cryptomgr.notests=1"
)
"""For a kernel on a host that may be slow."""
KERNEL_ARGS = (
    # notices and worse go to the console; a panic restarts, and that ends the guest (`-no-reboot`)
    "console=ttyS0 earlyprintk=ttyS0 loglevel=6 rdinit=/init panic=-1"
) + PATIENCE_ARGS
SSH_NET, SSH_GUEST = "192.168.76.0/24", "192.168.76.15"
"""The user network of a guest with a NIC for SSH, and its address there."""
SSH_MAC = "52:54:00:63:71:00"
CPU_PLUGS = 16
"""CPUs that may be plugged into one guest. TCG has a context for each of `maxcpus` CPUs, never
gives back an unplugged one's, and aborts when none is left (tcg_register_thread)."""
TSC_HZ = 3_000_000_000
"""About the rate of the time stamp counter (the host's own); too high only lengthens delays."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What the harness holds the other ends of: inherited descriptors, and files.

    Attributes:
        agent: descriptor of the agent's stream socket.
        qmp: descriptor of the monitor's stream socket.
        watch: descriptor of the stream socket of the watcher's monitor.
        nics: of each NIC the descriptor of its datagram socket, or those of its tap's queues.
        console: file that the serial console is written to.
        firmware: file that the firmware's debug port is written to.
        ram: file behind the guest's RAM.
    """

    agent: int
    qmp: int
    watch: int
    nics: tuple[tuple[int, ...], ...]
    console: Path
    firmware: Path
    ram: Path

    @property
    def fds(self) -> tuple[int, ...]:
        """All descriptors, for the child to inherit."""
        return (self.agent, self.qmp, self.watch, *(fd for nic in self.nics for fd in nic))


def hardware(topology: Topology, cpu: str, absent: Collection[str] = ()) -> list[str]:
    """Return the arguments that make the machine: the same for a template and its clones.

    Args:
        topology: what it is made of.
        cpu: model of its CPUs.
        absent: ids of what was unplugged from it since.
    """
    args = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    args += ["-cpu", cpu, "-m", f"{topology.memory_mib}M"]
    args += _nodes(topology)
    return args + own_devices(topology, cpu, absent)


def own_devices(topology: Topology, cpu: str, absent: Collection[str] = ()) -> list[str]:
    """Return the arguments that add the lab's devices to a machine; arguments as for `hardware`."""
    spares = range(topology.cpus, topology.possible_cpus)
    devices = [cpu_device(spare, cpu) for spare in spares]
    args = ["-device", "isa-debugcon,iobase=0x402,chardev=firmware"]
    args += ["-device", "virtio-serial-pci"]
    args += ["-device", f"virtserialport,chardev=agent,name={PORT}"]
    for number in range(topology.nics):
        if topology.pluggable:  # the root complex itself takes no plugging
            port = f"pcie-root-port,id=port{number},chassis={number + 1}"
            args += ["-device", port]
        devices.append(nic_device(topology, number))
    for device in devices:
        if device.get("id") not in absent:
            args += ["-device", _spell(device)]
    if topology.ssh:
        args += ["-device", f"virtio-net-pci,netdev=ssh,mac={SSH_MAC},romfile="]
    return args


def nic_device(topology: Topology, number: int) -> Device:
    """Return a NIC, to be plugged in or there from the start."""
    nic = topology.devices[number]
    device: Device = {"driver": "virtio-net-pci"}
    if topology.pluggable:
        device |= {"id": nic_id(number), "bus": f"port{number}"}
    device |= {"netdev": netdev_id(number), "mac": nic.mac, "romfile": ""}
    # native XDP is refused while the device merges what it receives
    device |= dict.fromkeys(("guest_tso4", "guest_tso6", "guest_ecn", "guest_ufo"), False)
    # a clone's guest has no announcing to do (harness/machine/snapshot.py)
    device["guest_announce"] = False
    if not topology.mrg_rxbuf:
        device["mrg_rxbuf"] = False
    if nic.taps > 1:
        # an interrupt for each receive and each send queue, one for changes and one for control
        device |= {"mq": True, "vectors": 2 * nic.taps + 2}
    return device


def cpu_device(number: int, cpu: str) -> Device:
    """Return a spare CPU, to be plugged in or there from the start.

    Args:
        number: of the CPU.
        cpu: its model, as for -cpu, whose features hold for all of that type.
    """
    driver = f"{cpu.partition(',')[0]}-x86_64-cpu"
    place = {"socket-id": number, "core-id": 0, "thread-id": 0}
    return {"driver": driver, "id": cpu_id(number), **place}


def nic_id(number: int) -> str:
    """Return QEMU's name of a NIC that can be unplugged."""
    return f"nic{number}"


def netdev_id(number: int) -> str:
    """Return QEMU's name of what a NIC is connected to."""
    return f"n{number}"


def cpu_id(number: int) -> str:
    """Return QEMU's name of a spare CPU."""
    return f"cpu{number}"


def _spell(device: Device) -> str:
    """Return a device as an argument."""
    words = {True: "on", False: "off"}
    rest = (f"{k}={words[v] if isinstance(v, bool) else v}" for k, v in device.items())
    return ",".join(rest).removeprefix("driver=")


def _nodes(topology: Topology) -> list[str]:
    """Return the arguments that put CPUs and memory together."""
    if topology.spare_cpus:
        # All are there while the kernel boots, or it takes none later: 7.3 wants a hypervisor it
        # knows for that (acpi_is_processor_usable), 6.12 a package with none (topo_register_apic).
        # A package each, for the one that boots takes no other's place.
        most = topology.possible_cpus + CPU_PLUGS
        smp = f"{topology.cpus},sockets={most},cores=1,threads=1,maxcpus={most}"
        return ["-machine", "q35,memory-backend=ram0", "-smp", smp]
    if topology.nodes == 1:
        return ["-machine", "q35,memory-backend=ram0", "-smp", str(topology.cpus)]
    # a socket's CPUs share a cache, which must not span nodes (arch/x86/kernel/smpboot.c)
    args = ["-machine", "q35", "-smp", f"{topology.cpus},sockets={topology.nodes}"]
    for node, cpus in enumerate(node_cpus(topology)):
        args += ["-numa", f"node,nodeid={node},cpus={cpus},memdev=ram{node}"]
    return args


def node_cpus(topology: Topology) -> list[str]:
    """Return the CPUs of each NUMA node, like "0-1"."""
    each = topology.cpus // topology.nodes
    return [f"{node * each}-{(node + 1) * each - 1}" for node in range(topology.nodes)]


def backends(topology: Topology, wiring: Wiring, *, share_ram: bool) -> list[str]:
    """Return the arguments that connect one instance of the machine to the harness."""
    share = "on" if share_ram else "off"
    each = topology.memory_mib // topology.nodes
    args = []
    for node in range(topology.nodes):
        ram = f"id=ram{node},size={each}M,mem-path={escape(wiring.ram)},share={share}"
        ram += f",offset={node * each}M" if node else ""
        args += ["-object", f"memory-backend-file,{ram}"]
    args += ["-chardev", console(wiring), "-serial", "chardev:console"]
    return args + channels(topology, wiring)


def console(wiring: Wiring) -> str:
    """Return the back-end of the serial console."""
    return f"file,id=console,path={escape(wiring.console)}"


def channels(topology: Topology, wiring: Wiring) -> list[str]:
    """Return the arguments that connect the lab's devices to the harness, but for the console."""
    args = ["-chardev", f"file,id=firmware,path={escape(wiring.firmware)}"]
    args += ["-chardev", f"socket,id=agent,fd={wiring.agent}"]
    for name, fd in (("qmp", wiring.qmp), ("watch", wiring.watch)):
        args += ["-chardev", f"socket,id={name},fd={fd}", "-mon", f"chardev={name},mode=control"]
    # a guest that ends itself is kept, stopped: its memory tells why (harness/machine/watcher.py)
    args += ["-action", "shutdown=pause"]
    for number, (nic, fds) in enumerate(zip(topology.devices, wiring.nics, strict=True)):
        args += ["-netdev", _netdev(f"id={netdev_id(number)}", nic, fds)]
    if topology.ssh:
        # nothing goes out, and in only what is forwarded; port 0 is one that is free
        forward = f"hostfwd=tcp:127.0.0.1:0-{SSH_GUEST}:22"
        args += ["-netdev", f"user,id=ssh,ipv6=off,net={SSH_NET},restrict=on,{forward}"]
    return args


def _netdev(name: str, nic: Nic, fds: Sequence[int]) -> str:
    if not nic.taps:
        return f"dgram,{name},local.type=fd,local.str={fds[0]}"
    which = "fds" if nic.taps > 1 else "fd"
    return f"tap,{name},{which}={':'.join(map(str, fds))},vhost=off"


def kernel(boot: Path, initramfs: Path, topology: Topology, hz: int | None) -> list[str]:
    """Return the arguments that boot the kernel.

    Args:
        boot: the ELF or bzImage.
        initramfs: its initial root.
        topology: whose `append` comes last.
        hz: the kernel's CONFIG_HZ if known: then it need not calibrate its delay loop, which
            takes half a second under TCG and goes wrong on a loaded host.
    """
    append = " ".join([KERNEL_ARGS, *added(topology, hz)])
    return ["-kernel", str(boot), "-initrd", str(initramfs), "-append", append]


def added(topology: Topology, hz: int | None) -> list[str]:
    """Return the end of a kernel command line; arguments as for `kernel`."""
    preset = [f"lpj={TSC_HZ // hz}"] if hz else []
    # what QEMU has room for beyond the spares (CPU_PLUGS) is no CPU of the guest's
    possible = [f"possible_cpus={topology.possible_cpus}"] if topology.spare_cpus else []
    return [*preset, *possible, *topology.append.split()]


def escape(path: Path) -> str:
    """Write a path so that QEMU's option parser takes it whole."""
    return str(path).replace(",", ",,")
