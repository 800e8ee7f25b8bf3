"""A target in the shape of a guest: what a case holds in its hand, with bounds to what it may do.

The agent is in a world apart (guest/agent/apart.c): its network, mounts, pins and tracing are its
own, and the machine's own settings can be read only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from harness.agent.syscalls import Syscalls
from harness.agent.tracer import BUFFER_KIB, Tracer, start_tracing
from harness.errors import GuestError, NotOnTarget
from harness.guest import Guest, bring_up, silence
from harness.target.kmsg import read_records
from harness.target.target import Target

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from harness.errors import LabError
    from harness.machine.splats import Splat

AT_FDCWD, O_RDONLY_NONBLOCK, SEEK_END = -100, 0o4000, 2
EINVAL, EPIPE, EROFS = 22, 32, 30
KMSG_BYTES = 16 << 20
TRACE_KIB = 1 << 17
"""Trace buffers of all CPUs together, at most."""
ALL_ADDRESSES = "0.0.0.0"


@dataclass(frozen=True)
class TargetGuest(Guest):
    """A target that is up and ready.

    Attributes:
        kmsg: the agent's descriptor of /dev/kmsg; it was at its end when the guest was made.
        foreign: pids of cpumap kthreads that are not ours.
    """

    kmsg: int = -1
    foreign: frozenset[int] = field(default=frozenset())

    @classmethod
    def on(cls, target: Target) -> Self:
        """Make a target ready for any case: network up and silent, tracing on.

        Raises:
            GuestError: its kernel lacks something that the lab needs.
        """
        link = target.link
        calls = Syscalls(link)
        path = b"/dev/kmsg\0"
        kmsg = calls.must("openat", AT_FDCWD, path, O_RDONLY_NONBLOCK, why="/dev/kmsg").value
        calls.must("lseek", kmsg, 0, SEEK_END)
        silence(link)
        indices = {"lo": bring_up(calls, "lo", "127.0.0.1")}
        kib = max(64, min(BUFFER_KIB, TRACE_KIB // target.cpus))
        tracer = Tracer(link, start_tracing(link, target.cpus, buffer_kib=kib))
        foreign = frozenset(pid for pid, _ in link.call("threads", "cpumap/"))
        guest = cls(target, indices, calls, tracer, kmsg=kmsg, foreign=foreign)
        for nic, _ in enumerate(target.macs):
            guest.make_veth(nic)
        return guest

    def must_own(self, what: str) -> None:
        """Refuse.

        Raises:
            NotOnTarget: always.
        """
        raise NotOnTarget(f"{self._where} is not ours: no {what} there")

    def refused(self, error: LabError) -> str:
        """Return why a target that is not ours did not do something, if that is the error."""
        if isinstance(error, NotOnTarget):
            return error.message
        if isinstance(error, GuestError) and error.errno == EROFS:
            return f"{self._where} is not ours to change: {error.message}"
        return ""

    @property
    def spare_cpus(self) -> int:
        """Number of those, the last ones, that nobody asked for, online or not."""
        assert isinstance(self.machine, Target)
        return self.machine.cpus - self.machine.used

    @property
    def _where(self) -> str:
        return self.machine.kernel.spec

    def link_target(self, path: str) -> PurePosixPath:
        """Return what a symbolic link points to; a NIC of ours there has no device.

        Raises:
            NotOnTarget: it is a NIC's device that is asked for.
            GuestError: it is no link.
        """
        if re.fullmatch(r"/sys/class/net/\w+/device", path):
            self.must_own("NIC to take away from it")
        return super().link_target(path)

    def set_mtu(self, nic: int, mtu: int) -> None:
        """Set the MTU of a NIC; veth takes no large one with XDP programs before 5.18.

        Raises:
            NotOnTarget: it takes none so large (drivers/net/veth.c, veth_xdp_set).
            GuestError: it cannot be set.
        """
        try:
            super().set_mtu(nic, mtu)
        except GuestError as error:
            if error.errno != EINVAL:
                raise
            raise NotOnTarget(
                f"{self._where}: its veth pairs take no MTU of {mtu} with XDP programs: {error}"
            ) from None

    def threads(self, prefix: str) -> dict[int, str]:
        """Return the processes and kthreads whose comm begins so, but for others' of cpumaps."""
        there = super().threads(prefix)
        return {pid: comm for pid, comm in there.items() if pid not in self.foreign}

    def dmesg(self) -> str:
        """Return what the kernel has printed since the guest was made (/dev/kmsg)."""
        console = self.machine.console
        assert isinstance(self.machine, Target)
        while True:
            try:
                (raw,) = self.calls.link.call("drain", [self.kmsg], KMSG_BYTES)
            except GuestError as error:
                if error.errno != EPIPE:  # it has been overwritten meanwhile, up to here
                    raise
                self.machine.console.add("(messages were lost)\n")
                continue
            self.machine.console.add(read_records(raw.decode("utf-8", "replace")))
            return console.text()

    def splats(self) -> list[Splat]:
        """Return what the kernel reported of its being broken since the guest was made."""
        self.dmesg()
        return self.machine.splats()
