"""One running guest: a machine, its agent, and what was made ready in it before it was frozen."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from harness.agent.bpf import F_XDP_HAS_FRAGS, attach_xdp, load_object, load_verdict
from harness.agent.netlink import move_to_netns
from harness.agent.syscalls import Buffer, Syscalls
from harness.agent.threads import own_threads
from harness.agent.tracer import Rings, Tracer, start_tracing
from harness.agent.veth import PacketSocket, make_veth, peer_name, set_aside
from harness.errors import GuestError, LabError, NotOnTarget, TrafficStalled
from harness.machine.clock import check_clock, check_timers, read_clock
from harness.machine.command import SSH_GUEST
from harness.machine.machine import Machine
from harness.machine.splats import Splat, find_splats
from harness.model.gates import FRAGS
from harness.trace.events import XdpAction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harness.agent.link import Link
    from harness.target.target import Target

DRIVERS = ("virtio_pci", "virtio_console", "virtio_net")
"""Modules without which no guest comes up, where they are not built in."""
MODULES = (*DRIVERS, "sch_ingress", "cls_bpf", "veth")
"""All modules that the guest is given."""
STEER, ARRIVE = OBJECTS = ("/bpf/steer.bpf.o", "/bpf/arrive.bpf.o")
"""The BPF objects of every run, in the guest."""
STEER_FRAGS = "/bpf/steer_frags.bpf.o"
SIOCGIFINDEX, SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR = 0x8933, 0x8913, 0x8914, 0x8916
IFF_UP = 1
SYSLOG_READ_ALL, SYSLOG_SIZE = 3, 10
AF_INET, SOCK_DGRAM = 2, 2
CLOCK_MONOTONIC_COARSE = 6
SIGKILL = 9
AT_FDCWD, O_CLOEXEC, CLONE_NEWNET = -100, 0o2000000, 0x40000000


def prepare(machine: Machine) -> dict[str, Any]:
    """Make a booted guest ready for any case: network up and silent, tracing on, libbpf warm.

    It runs once per template, before the freeze. What it returns goes to `Guest`.

    Raises:
        GuestError: the kernel lacks something that the lab needs.
        ClockOff: the guest's clock does not keep the host's time, or its CPUs have no timers.
    """
    link = machine.link
    calls = Syscalls(link)
    check_timers(read_dmesg(calls))
    clock = read_clock(calls)
    silence(link)
    nics = range(machine.recipe.topology.nics)
    indices = {"lo": bring_up(calls, "lo", "127.0.0.1")}
    indices |= {interface_name(nic): bring_up_nic(calls, nic) for nic in nics}
    if machine.recipe.topology.ssh:
        bring_up(calls, interface_name(len(nics)), SSH_GUEST)
    for path in OBJECTS:
        # libbpf tries out once what a kernel can do; this costs more than all loads that follow
        maps, programs = load_object(calls, path, {})
        for descriptor in (*maps.values(), *programs.values()):
            descriptor.close()
    rings = start_tracing(link, machine.recipe.topology.possible_cpus)
    check_clock(calls, clock)
    return {"ifindex": indices, "rings": rings.to_json()}


def silence(link: Link) -> None:
    """Have the stack send nothing of its own, and take what comes by the wrong way.

    Raises:
        GuestError: there are no such sysctls.
    """
    for interface in ("all", "default"):
        try:  # neighbour discovery and MLD would put frames of their own among ours
            link.call("write", f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6", b"1")
        except GuestError as error:
            if error.errno != errno.ENOENT:
                raise
        link.call("write", f"/proc/sys/net/ipv4/conf/{interface}/rp_filter", b"0")


PREPARED_BY = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
"""Stands for `prepare` in the digest of a snapshot."""


def interface_name(nic: int) -> str:
    """Return the guest's name of a NIC."""
    return f"eth{nic}"


def guest_address(nic: int) -> str:
    """Return the guest's IPv4 address on a NIC (a /8's default mask is narrowed by no one)."""
    return f"10.{nic}.0.2"


def peer_address(nic: int) -> str:
    """Return the address that frames to a NIC come from."""
    return f"10.{nic}.0.1"


@dataclass(frozen=True)
class Guest:
    """A guest that is up and ready.

    Attributes:
        machine: the QEMU that runs it, or the target that it is.
        ifindex: of its interfaces, by name.
        calls: system calls in it.
        tracer: its trace buffers.
        veths: of each NIC that is a veth pair, what sends into it.
        give_back: told when it is not needed any more, and whether nothing has gone wrong; without
            it the guest just ends.
        spoilt: what was done to it that no reset undoes.
    """

    machine: Machine | Target
    ifindex: dict[str, int]
    calls: Syscalls
    tracer: Tracer
    veths: dict[int, PacketSocket] = field(default_factory=dict)
    give_back: Callable[[bool], None] | None = None
    spoilt: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, machine: Machine, prepared: dict[str, Any]) -> Self:
        """Return the guest that `prepare` made ready in this machine or in its template."""
        tracer = Tracer(machine.link, Rings(**prepared["rings"]))
        return cls(machine, dict(prepared["ifindex"]), Syscalls(machine.link), tracer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self.close(sound=failed is None)

    def close(self, *, sound: bool = True) -> None:
        """End the guest, or give it back to who lent it.

        Args:
            sound: whether nothing has gone wrong with it.

        Raises:
            NotReset: it was lent, and is not as it was.
        """
        if self.give_back is None:
            self.machine.close()
        else:
            self.give_back(sound)

    @property
    def own(self) -> Machine:
        """The QEMU that runs it.

        Raises:
            NotOnTarget: nobody's QEMU that we know of runs it.
        """
        if not isinstance(self.machine, Machine):
            raise NotOnTarget(f"{self.machine.address} is no guest of ours")
        return self.machine

    def must_own(self, what: str) -> None:
        """See that one may do with it what one likes, for `what`.

        Raises:
            NotOnTarget: it is somebody's machine.
        """

    def refused(self, _error: LabError) -> str:
        """Return why one may not do something with it, if that is the error; one may do all."""
        return ""

    @property
    def cpus(self) -> int:
        """Number of the CPUs that it may have, its spares among them."""
        return self.machine.cpus

    @property
    def spare_cpus(self) -> int:
        """Number of those, the last ones, that it does not begin with."""
        return self.own.recipe.topology.spare_cpus

    def mac(self, nic: int) -> str:
        """Return the hardware address of one of its NICs."""
        return self.machine.macs[nic]

    def read(self, path: str) -> str:
        """Return the text of a file in the guest.

        Raises:
            GuestError: it cannot be read.
        """
        content: bytes = self.calls.link.call("read", path, 16 << 20)
        return content.decode("utf-8", "replace")

    def write(self, path: str, text: str) -> None:
        """Write a file of the guest's in one go.

        Raises:
            GuestError: it cannot be written.
        """
        self.calls.link.call("write", path, text.encode())

    def link_target(self, path: str) -> PurePosixPath:
        """Return what a symbolic link in the guest points to (readlink(2)).

        Raises:
            GuestError: it is no link.
        """
        target = Buffer(4096, returned=True)
        size = self.calls.must("readlink", f"{path}\0".encode(), target, 4096, why=path).value
        return PurePosixPath(target.content[:size].decode())

    def threads(self, prefix: str) -> dict[int, str]:
        """Return pid and comm of the processes and kthreads whose comm begins so."""
        return {pid: comm for pid, comm in self.calls.link.call("threads", prefix)}

    def tick_hz(self) -> int:
        """Return the ticks of the guest's kernel in a second, CONFIG_HZ (clock_getres(2))."""
        resolution = Buffer(16, returned=True)
        self.calls.must("clock_getres", CLOCK_MONOTONIC_COARSE, resolution)
        return round(10**9 / int.from_bytes(resolution.content[8:], "little"))

    def spawn(
        self,
        what: str,
        cpu: int = -1,
        policy: int = 0,
        priority: int = 0,
        *,
        argv: Iterable[str] = (),
    ) -> int:
        """Start a child of the agent's and return its pid.

        Args:
            what: "spin" burns its CPU until that goes offline, "pause" holds all descriptors that
                the agent has now, "hoard" has as many bytes of memory as its argument says.
            cpu: where it is bound to; -1: nowhere.
            policy: its scheduling class.
            priority: in that class.
            argv: its arguments.

        Raises:
            GuestError: it cannot be made so.
        """
        pid: int = self.calls.link.call("spawn", what, list(argv), cpu, policy, priority)
        return pid

    def kill(self, pid: int) -> None:
        """End a child of the agent's with SIGKILL, and see it gone.

        Raises:
            GuestError: there is none.
        """
        self.calls.must("kill", pid, SIGKILL)
        self.calls.must("wait4", pid, 0, 0, 0)

    @contextlib.contextmanager
    def netns(self, *, nic: int) -> Iterator[None]:
        """Be in a network namespace of one's own while a `with` block runs, with a NIC moved in.

        When it is left, nobody holds it any more, but sockets that are still open.

        Raises:
            GuestError: the kernel refuses it.
        """
        calls = self.calls
        current = ("openat", AT_FDCWD, b"/proc/thread-self/ns/net\0", O_CLOEXEC)
        outside = calls.must(*current).value
        calls.must("unshare", CLONE_NEWNET)
        inside = calls.must(*current).value
        try:
            calls.must("setns", outside, CLONE_NEWNET)
            move_to_netns(calls, self.ifindex[interface_name(nic)], inside)
            calls.must("setns", inside, CLONE_NEWNET)
            self.ifindex[interface_name(nic)] = bring_up_nic(calls, nic)
            yield
        finally:
            calls.must("setns", outside, CLONE_NEWNET)
            calls.must("close", inside)
            calls.must("close", outside)

    def remove_nic(self, nic: int) -> None:
        """Take a NIC from its driver; its interface goes with it, for good.

        Raises:
            GuestError: there is no such NIC.
        """
        name = interface_name(nic)
        self.spoilt.append(f"{name} was removed")
        device = self.link_target(f"/sys/class/net/{name}/device").name
        self.write("/sys/bus/virtio/drivers/virtio_net/unbind", device)

    def has_interface(self, name: str) -> bool:
        """Return whether the namespace of the agent has an interface of this name."""
        return f"{name}:" in self.read("/proc/thread-self/net/dev")

    def put_veth(self, nic: int) -> None:
        """Put a veth pair into the place of a NIC: under its name, with its addresses.

        Raises:
            GuestError: the kernel has no veth, or no packet sockets.
        """
        name = interface_name(nic)
        set_aside(self.calls, name, self.ifindex[name])
        self.make_veth(nic)

    def make_veth(self, nic: int) -> None:
        """Make a veth pair under the name of a NIC that is not there, with its addresses.

        The end that sends has an XDP program, too: without one, or GRO, nothing can be redirected
        to it (drivers/net/veth.c, veth_xdp_xmit).

        Raises:
            GuestError: the kernel has no veth, or no packet sockets.
        """
        name = interface_name(nic)
        make_veth(self.calls, name, mac=self.mac(nic))
        self.ifindex[name] = bring_up_nic(self.calls, nic)
        sender = self.veths[nic] = PacketSocket(self.calls, peer_name(name))
        flags = F_XDP_HAS_FRAGS if FRAGS.holds(self.machine.kernel.numbers) else 0
        passes = load_verdict(self.calls, XdpAction.PASS, flags=flags)
        attach_xdp(self.calls, passes, sender.ifindex, "native")

    def set_mtu(self, nic: int, mtu: int) -> None:
        """Set the MTU of a NIC.

        Raises:
            GuestError: the NIC, or the XDP program on it, cannot take frames of that size.
        """
        name = interface_name(nic)
        for each in (name, peer_name(name)) if nic in self.veths else (name,):
            self.write(f"/sys/class/net/{each}/mtu", str(mtu))

    def own_threads(self) -> list[int]:
        """Return the thread ids of the agent."""
        return own_threads(self.calls)

    def dmesg(self) -> str:
        """Return the kernel's message buffer."""
        return read_dmesg(self.calls)

    def stalled(self, what: str) -> TrafficStalled:
        """Return the error for frames that were waited for in vain, with the reason."""
        return TrafficStalled(what, hang=self.machine.examine(what))

    def look_into(self, error: LabError) -> None:
        """Find out why the guest takes no frames, if that is the error."""
        if isinstance(error, TrafficStalled) and error.hang is None:
            error.hang = self.machine.examine(error.message)
            error.message += f"; {self.machine.ended}" if self.machine.ended else ""

    def splats(self) -> list[Splat]:
        """Return what the kernel reported of its own being broken, since it booted.

        Raises:
            AgentLost: the guest does not answer; ask `machine.splats()` then.
        """
        return find_splats(self.dmesg())


def read_dmesg(calls: Syscalls) -> str:
    """Return the kernel's message buffer (syslog(2))."""
    size = calls.must("syslog", SYSLOG_SIZE, 0, 0).value
    text = Buffer(size, returned=True)
    length = calls.must("syslog", SYSLOG_READ_ALL, text, size).value
    return text.content[:length].decode("utf-8", "replace")


def bring_up_nic(calls: Syscalls, nic: int) -> int:
    """Give a NIC its address and the qdisc that the run's tc program attaches to.

    Returns:
        The interface's index.

    Raises:
        GuestError: the namespace of the agent has no such interface, or the kernel no such qdisc.
    """
    ifindex = bring_up(calls, interface_name(nic), guest_address(nic))
    try:
        calls.link.call("clsact", ifindex)
    except GuestError as error:
        if error.errno != errno.ENOENT:
            raise
        raise GuestError(
            f"the kernel has no clsact, by which tc programs see frames arrive: {error.message}",
            errno=error.errno,
            remedy="build it with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF, and put its "
            "configuration beside it: `cpumap-lab kernels check` then tells what else it lacks",
        ) from error
    return ifindex


def bring_up(calls: Syscalls, name: str, address: str) -> int:
    """Give an interface its address, set it up and return its index (netdevice(7)).

    Raises:
        GuestError: the namespace of the agent has no such interface.
    """
    fd = calls.must("socket", AF_INET, SOCK_DGRAM, 0).value

    def ask(request: int, payload: bytes) -> bytes:
        ifreq = Buffer(struct.pack("<16s24s", name.encode(), payload), returned=True)
        calls.must("ioctl", fd, request, ifreq, why=name)
        return ifreq.content[16:]

    index = int.from_bytes(ask(SIOCGIFINDEX, b"")[:4], "little")
    ask(SIOCSIFADDR, struct.pack("<HH4s", AF_INET, 0, socket.inet_aton(address)))
    flags = int.from_bytes(ask(SIOCGIFFLAGS, b"")[:2], "little")
    ask(SIOCSIFFLAGS, struct.pack("<H", flags | IFF_UP))
    calls.must("close", fd)
    return index
