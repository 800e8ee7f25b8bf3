"""What a guest is made of, as data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from harness.errors import UserError

MAX_CPUS = 64
MIN_MEMORY_MIB = 128
Launcher = Literal["qemu", "virtme-ng"]
LAUNCHERS: tuple[Launcher, ...] = get_args(Launcher)
"""What boots a guest: the lab itself, on an initramfs; virtme-ng, on this machine's own root."""


@dataclass(frozen=True, slots=True)
class Nic:
    """One virtio-net device.

    Attributes:
        mac: its address, which frames must be sent to.
        taps: queues of the tap behind it; 0: a dgram back-end, of one queue.
    """

    mac: str
    taps: int = 0


@dataclass(frozen=True, slots=True)
class Topology:
    """CPUs, memory and NICs of a guest, and what the user adds to its kernel command line.

    Attributes:
        cpus: virtual CPUs, all online from the start.
        memory_mib: RAM in MiB.
        nics: number of virtio-net devices; the guest sees them as eth0, eth1, …
        nodes: NUMA nodes; each has its equal part of the CPUs, in order, and of the memory.
        mrg_rxbuf: the NICs may spread a frame over several buffers (VIRTIO_NET_F_MRG_RXBUF).
        append: added to the kernel command line, last.
        taps: queues of the tap behind each NIC, in order; those left out, or with 0, are on a
            dgram back-end, of one queue.
        ssh: a NIC more, behind the others, for an sshd (`harness.sshd`).
        spare_cpus: CPUs behind the others that can be plugged in; no clone begins with them.
        pluggable: the NICs can be unplugged and plugged in again: each has a root port.
        launcher: what boots it.
    """

    cpus: int = 4
    memory_mib: int = 512
    nics: int = 1
    append: str = ""
    nodes: int = 1
    mrg_rxbuf: bool = True
    taps: tuple[int, ...] = ()
    ssh: bool = False
    spare_cpus: int = 0
    pluggable: bool = False
    launcher: Launcher = "qemu"

    def __post_init__(self) -> None:
        if not 1 <= self.cpus <= self.possible_cpus <= MAX_CPUS:
            raise UserError(f"{self.possible_cpus} CPUs: a guest has 1 to {MAX_CPUS}")
        if self.memory_mib < MIN_MEMORY_MIB:
            raise UserError(f"{self.memory_mib} MiB: a guest needs {MIN_MEMORY_MIB} MiB or more")
        if not 0 <= self.nics <= 8:
            raise UserError(f"{self.nics} NICs: a guest has 0 to 8")
        if len(self.taps) > self.nics:
            raise UserError(f"taps for {len(self.taps)} NICs, and there are {self.nics}")
        for queues in self.taps:
            if not 0 <= queues <= self.cpus:
                raise UserError(f"{queues} queues: a NIC has 1 to {self.cpus}, one for each CPU")
        if self.nodes < 1 or self.cpus % self.nodes or self.memory_mib % self.nodes:
            raise UserError(
                f"{self.nodes} NUMA nodes cannot share {self.cpus} CPUs and {self.memory_mib} MiB "
                "equally"
            )
        if self.spare_cpus and self.nodes > 1:
            raise UserError("spare CPUs are of no NUMA node: give the guest one node")

    @property
    def possible_cpus(self) -> int:
        """The CPUs that the guest ever has: what its kernel calls possible."""
        return self.cpus + self.spare_cpus

    @property
    def devices(self) -> tuple[Nic, ...]:
        """The NICs, in the order in which the guest numbers them."""
        taps = (*self.taps, *[0] * (self.nics - len(self.taps)))
        return tuple(Nic(f"52:54:00:63:70:{nic:02x}", taps[nic]) for nic in range(self.nics))


@dataclass(frozen=True, slots=True)
class Accel:
    """How QEMU runs guest code, and why so.

    Attributes:
        name: "tcg" or "kvm".
        threads: "multi" or "single" (TCG only; "" for KVM).
        why: the probe's finding, for people.
        cpu: QEMU's -cpu argument that goes with it.
        pace: how much slower than a reference machine guests run here (1.0 or more); deadlines
            are multiplied by it.
    """

    name: str
    threads: str
    why: str
    cpu: str = "qemu64"
    pace: float = field(default=1.0, compare=False)

    @property
    def argument(self) -> str:
        """QEMU's -accel argument for a guest that is up."""
        return f"{self.name},thread={self.threads}" if self.threads else self.name

    def threads_for(self, topology: Topology, *, boots: bool) -> str:
        """Return how TCG runs a guest that boots, or goes on from its snapshot ("" for KVM).

        Those that patch their own code while they are at work run in one thread.
        With a thread per virtual CPU, TCG now and then runs what has just been patched. A booting
        kernel does it all the time ("Oops: int3" at a static key): 2 of 30 boots with QEMU 7.2, and
        with 10.0.2 on an overloaded host. So does one that attaches an XDP program while frames
        come in by another (bpf_dispatcher_update): a CPU hits an int3 that is not there any more,
        for ever, 1 of 30 times.

        NICs come and go, and their programs with them, while frames come in by others. Where CPUs
        do, too, each has its thread: QEMU 10.0 aborts when one is taken out that had none.
        """
        patches = topology.pluggable and not topology.spare_cpus
        return "single" if self.threads and (boots or patches) else self.threads

    def argument_for(self, topology: Topology, *, boots: bool) -> str:
        """Return QEMU's -accel argument for a guest that boots, or goes on from its snapshot."""
        return replace(self, threads=self.threads_for(topology, boots=boots)).argument
