"""The cpumaps of a run, and every entry that lived in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.agent.bpf import CpuMap
from harness.agent.syscalls import Syscalls
from harness.trace.evidence import Cpumap, Entry

if TYPE_CHECKING:
    from harness.agent.bpf import Program
    from harness.agent.syscalls import Started
    from harness.guest import Guest
    from harness.steering.plan import Plan

ASIDE = 1
"""The agent's thread for calls that may block."""


class Cpumaps:
    """The cpumaps of a run; what is done to their entries is remembered for the books.

    Args:
        guest: where.
        plan: how many maps there are, and how large.

    Attributes:
        maps: the cpumaps.
        ids: their ids, whether they are still there or not.
        rings: the last qsize of each entry, by map id and CPU.

    Raises:
        GuestError: the kernel refuses a map.
    """

    def __init__(self, guest: Guest, plan: Plan) -> None:
        self._calls = guest.calls
        size = plan.max_entries or guest.cpus
        self.maps = [CpuMap(guest.calls, max_entries=size) for _ in range(plan.maps)]
        self.ids = [cpumap.id for cpumap in self.maps]
        self.rings: dict[tuple[int, int], int] = {}
        self._entries: list[list[Entry]] = [[] for _ in self.maps]
        self._programs: dict[int, Program] = {}

    def set(
        self,
        cpu: int,
        qsize: int,
        prog: Program | None = None,
        *,
        map: int = 0,
        onward: tuple[int, ...] = (),
    ) -> None:
        """Make or replace an entry of a cpumap.

        Args:
            cpu: its key.
            qsize: frames that its ring holds; 0 deletes the entry.
            prog: its program.
            map: number of the map.
            onward: CPUs that the program redirects to, if it does.

        Raises:
            GuestError: the kernel refuses it.
        """
        self.maps[map].set(cpu, qsize, prog)
        self._take_down(cpu, qsize, prog, map, onward)

    def start_set(
        self,
        cpu: int,
        qsize: int,
        prog: Program | None = None,
        *,
        map: int = 0,
        onward: tuple[int, ...] = (),
    ) -> Started:
        """Start to make or replace an entry, as `set`; a held CPU lets it end when it is released.

        (cpu_map_update_elem waits for the new kthread's first run: 6.5, 6.1.45.)
        """
        aside = Syscalls(self._calls.link, task=ASIDE)
        self._take_down(cpu, qsize, prog, map, onward)
        cpumap = self.maps[map]
        return cpumap.start_update(cpu, cpumap.value(qsize, prog), calls=aside)

    def has_ended(self, started: Started) -> bool:
        """Tell whether `start_set` has been answered."""
        return self._calls.link.is_answered(started.ticket)

    def finish_set(self, started: Started) -> None:
        """Wait for `start_set` to end.

        Raises:
            GuestError: the kernel refused it.
        """
        self._calls.collect(started).must("update of a cpumap entry")

    def _take_down(
        self, cpu: int, qsize: int, prog: Program | None, map: int, onward: tuple[int, ...]
    ) -> None:
        """Remember an entry that there is from here on, for the books and for the end."""
        if qsize:
            self._entries[map].append(Entry(cpu, prog.id if prog else 0, onward))
            self.rings[self.ids[map], cpu] = qsize
        if prog:
            self._programs[prog.fd] = prog

    @property
    def known(self) -> tuple[Cpumap, ...]:
        """The maps with every entry that lived in them."""
        both = zip(self.ids, self._entries, strict=True)
        return tuple(Cpumap(map_id, tuple(entries)) for map_id, entries in both)

    def close(self) -> None:
        """Drop every reference to the maps and to their entries' programs.

        Raises:
            GuestError: something was closed before, elsewhere.
        """
        for cpumap, entries in zip(self.maps, self._entries, strict=True):
            for entry in entries:
                if entry.onward:  # a map and the program of its entry may hold each other
                    cpumap.remove(entry.cpu)
        for descriptor in (*self._programs.values(), *self.maps):
            descriptor.close()
