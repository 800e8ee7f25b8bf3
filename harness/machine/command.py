"""From a topology to QEMU's command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.machine.topology import Nic, Topology

PORT = "cpumap-lab.agent"
KERNEL_ARGS = (
    # notices and worse go to the console; a panic restarts, and that ends the guest (`-no-reboot`)
    "console=ttyS0 earlyprintk=ttyS0 loglevel=6 rdinit=/init panic=-1"
    # a host that is busy elsewhere is no broken timer, no broken TSC
    " no_timer_check tsc=reliable"
    # and no lockup: 40 s rather than 20, yet within the deadline of a call
    " watchdog_thresh=20 rcupdate.rcu_cpu_stall_timeout=40"
    # it prints backtraces when the lab asks for them, be it by the serial line
    " sysrq_always_enabled"
    # nor need the kernel try its ciphers, still at it when the first cases run
    " cryptomgr.notests=1"
)
SSH_NET, SSH_GUEST = "192.168.76.0/24", "192.168.76.15"
"""The user network of a guest with a NIC for SSH, and its address there."""
SSH_MAC = "52:54:00:63:71:00"
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


def hardware(topology: Topology, cpu: str) -> list[str]:
    """Return the arguments that make the machine: the same for a template and its clones."""
    args = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    args += ["-cpu", cpu, "-m", f"{topology.memory_mib}M"]
    args += _nodes(topology)
    args += ["-device", "isa-debugcon,iobase=0x402,chardev=firmware"]
    args += ["-device", "virtio-serial-pci"]
    args += ["-device", f"virtserialport,chardev=agent,name={PORT}"]
    for number, nic in enumerate(topology.devices):
        # native XDP is refused while the device merges what it receives
        features = "guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"
        # a clone's guest has no announcing to do (harness/machine/snapshot.py)
        features += ",guest_announce=off"
        features += "" if topology.mrg_rxbuf else ",mrg_rxbuf=off"
        # an interrupt for each receive and each send queue, one for changes and one for control
        features += f",mq=on,vectors={2 * nic.taps + 2}" if nic.taps > 1 else ""
        args += ["-device", f"virtio-net-pci,netdev=n{number},mac={nic.mac},romfile=,{features}"]
    if topology.ssh:
        args += ["-device", f"virtio-net-pci,netdev=ssh,mac={SSH_MAC},romfile="]
    return args


def _nodes(topology: Topology) -> list[str]:
    """Return the arguments that put CPUs and memory together."""
    if topology.nodes == 1:
        return ["-machine", "q35,memory-backend=ram0", "-smp", str(topology.cpus)]
    # a socket's CPUs share a cache, which must not span nodes (arch/x86/kernel/smpboot.c)
    args = ["-machine", "q35", "-smp", f"{topology.cpus},sockets={topology.nodes}"]
    each = topology.cpus // topology.nodes
    for node in range(topology.nodes):
        cpus = f"{node * each}-{(node + 1) * each - 1}"
        args += ["-numa", f"node,nodeid={node},cpus={cpus},memdev=ram{node}"]
    return args


def backends(topology: Topology, wiring: Wiring, *, share_ram: bool) -> list[str]:
    """Return the arguments that connect one instance of the machine to the harness."""
    share = "on" if share_ram else "off"
    each = topology.memory_mib // topology.nodes
    args = []
    for node in range(topology.nodes):
        ram = f"id=ram{node},size={each}M,mem-path={escape(wiring.ram)},share={share}"
        ram += f",offset={node * each}M" if node else ""
        args += ["-object", f"memory-backend-file,{ram}"]
    args += ["-chardev", f"file,id=console,path={escape(wiring.console)}"]
    args += ["-serial", "chardev:console"]
    args += ["-chardev", f"file,id=firmware,path={escape(wiring.firmware)}"]
    args += ["-chardev", f"socket,id=agent,fd={wiring.agent}"]
    for name, fd in (("qmp", wiring.qmp), ("watch", wiring.watch)):
        args += ["-chardev", f"socket,id={name},fd={fd}", "-mon", f"chardev={name},mode=control"]
    # a guest that ends itself is kept, stopped: its memory tells why (harness/machine/watcher.py)
    args += ["-action", "shutdown=pause"]
    for number, (nic, fds) in enumerate(zip(topology.devices, wiring.nics, strict=True)):
        args += ["-netdev", _netdev(f"id=n{number}", nic, fds)]
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
    preset = f"lpj={TSC_HZ // hz}" if hz else ""
    append = " ".join(f"{KERNEL_ARGS} {preset} {topology.append}".split())
    return ["-kernel", str(boot), "-initrd", str(initramfs), "-append", append]


def escape(path: Path) -> str:
    """Write a path so that QEMU's option parser takes it whole."""
    return str(path).replace(",", ",,")
