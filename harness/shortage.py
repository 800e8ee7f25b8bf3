"""A guest whose kernel has next to no memory left: what may not wait for it gets none.

For any kernel, where `harness.faults` takes one that was built for it. Children of the agent's take
memory until little more than the kernel's reserve is free. What may wait for memory still gets it:
the OOM killer ends those children for it, the largest first, and never the agent, which is init
(mm/oom_kill.c, oom_badness). What may not (GFP_ATOMIC) has the reserve, and then nothing
(mm/page_alloc.c, __zone_watermark_ok).

They have far more than all clones of skbs below can take, or else the kernel would panic for want
of somebody to kill. The agent is asked for little meanwhile: what opens a file, or answers at
length, takes memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from harness.agent.syscalls import Buffer
from harness.agent.veth import PacketSocket
from harness.errors import LabError
from harness.guest import interface_name
from harness.patience import wait_until

if TYPE_CHECKING:
    from harness.guest import Guest

AT_FDCWD, O_RDONLY, SEEK_SET = -100, 0, 0
SOCKETS, HOARDERS = 8, 16
MIN_HOARD_KIB = 512
RESERVES = 3
"""What is left free, in reserves of the kernel (vm.min_free_kbytes)."""
ASLEEP_S = 30.0


class NoShortage(LabError):
    """Memory could not be taken: no verdict on the kernel."""


def free_kib(guest: Guest) -> int:
    """Return a guest's free memory: MemFree of /proc/meminfo, without what lies by for a CPU."""
    rows = (line.split() for line in guest.read("/proc/meminfo").splitlines())
    return next(int(row[1]) for row in rows if row[0] == "MemFree:")


class Shortage:
    """Takes a guest's memory, from `begin` to the end of a `with` block.

    Sockets that nobody reads keep a clone each of every skb that eth0 takes in meanwhile: so the
    cache of skbs has to grow by 2 KiB for each frame (net/packet/af_packet.c, packet_rcv).

    Args:
        guest: whose.
        thread: id of the kernel thread that is to do without.
    """

    def __init__(self, guest: Guest, thread: int) -> None:
        self._guest = guest
        self._thread = thread
        self._hoarders: list[int] = []
        self._sockets: list[int] = []
        self._state = -1

    def __enter__(self) -> Self:
        self._guest.must_own("memory to use up")
        calls = self._guest.calls
        self._sockets = [PacketSocket(calls, interface_name(0)).fd for _ in range(SOCKETS)]
        path = f"/proc/{self._thread}/stat\0".encode()
        self._state = calls.must("openat", AT_FDCWD, path, O_RDONLY, 0).value
        self._is_asleep()  # it has its buffer from now on
        return self

    def begin(self) -> None:
        """Leave the kernel next to nothing.

        Raises:
            NoShortage: more stays free, whatever is taken.
        """
        guest = self._guest
        guest.write("/proc/sys/vm/drop_caches", "3")
        wanted_kib = RESERVES * int(guest.read("/proc/sys/vm/min_free_kbytes"))
        each_kib = max((free_kib(guest) - wanted_kib) // HOARDERS, MIN_HOARD_KIB)
        for _ in range(2 * HOARDERS):
            spare_kib = free_kib(guest) - wanted_kib
            if spare_kib <= 0:
                return
            length = min(spare_kib, each_kib) << 10
            self._hoarders.append(guest.spawn("hoard", argv=[str(length)]))
        raise NoShortage(f"{spare_kib} KiB are free that were to be taken by {len(self._hoarders)}")

    def wait_asleep(self) -> None:
        """Wait until the thread sleeps, or for half a minute: assert what it did afterwards."""
        wait_until(self._is_asleep, ASLEEP_S * self._guest.machine.pace)

    def __exit__(self, *_: object) -> None:
        for fd in (*self._sockets, self._state):  # first of all: it takes no memory
            self._guest.calls.must("close", fd)
        for pid in self._hoarders:
            self._guest.kill(pid)  # one that the OOM killer ended is still to be waited for

    def _is_asleep(self) -> bool:
        calls, told = self._guest.calls, Buffer(512, returned=True)
        calls.must("lseek", self._state, 0, SEEK_SET)
        calls.must("read", self._state, told, 512)
        return b") S " in told.content
