"""One steered run: frames redirected into cpumaps, and the books of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harness.agent.bpf import (
    MAP_GET_FD_BY_ID,
    PROG_GET_FD_BY_ID,
    CpuMap,
    Link,
    attach_xdp,
    is_alive,
)
from harness.agent.sink import Sink
from harness.guest import interface_name
from harness.model.gates import UPDATE_WAITS
from harness.patience import wait_until
from harness.steering.cpumaps import Cpumaps
from harness.steering.notes import TcSide, XdpSide
from harness.steering.traffic import POLL_S, Traffic
from harness.trace.events import XdpAction
from harness.trace.evidence import Circumstances, Evidence, Mode, SocketCounts
from harness.trace.ledger import close_books
from harness.trace.rest import Rest, quiescent
from harness.trace.tally import add_up

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from harness.agent.bpf import Program
    from harness.guest import Guest
    from harness.steering.plan import Plan
    from harness.trace.books import Books
    from harness.trace.hops import Hop, HopTable
    from harness.trace.tally import Sums

REST_S = 60.0
DISCARD_PORT = 9


class Steering:
    """XDP programs that steer into cpumaps, a tc program behind them, and their notes.

    What is done to the entries (`set`, `start_set`, `has_ended`, `finish_set`) is described at
    `Cpumaps`; what to the frames (`flow`, `send`, `inject`, `sending`, `live`, `receive`,
    `receive_on`) at `Traffic`.

    Args:
        guest: where.
        plan: how.
        patience: what is left of it with this kernel (`harness.patience.Patience`).

    Attributes:
        cpumaps: the maps and their entries.
        traffic: what was sent.
        links: an XDP attachment for each NIC in the plan.
        evidence: what the books were closed on; None before.

    Raises:
        GuestError: the kernel refuses a program, a map, an entry or an attachment.
    """

    def __init__(self, guest: Guest, plan: Plan, *, patience: float = 1.0) -> None:
        self.guest = guest
        self.plan = plan
        self.evidence: Evidence | None = None
        self._received: SocketCounts | None = None
        self._sums_received: Sequence[int] = ()
        self._intact = True
        self._pinned = True
        self._redirects_traced = False
        self._rest_s = REST_S * guest.machine.pace * patience
        self._ifindexes = [guest.ifindex[interface_name(nic)] for nic in plan.nics]
        self.cpumaps = Cpumaps(guest, plan)
        self._xdp = XdpSide(guest, plan, self.maps)
        self._tc = TcSide(guest, plan, self._ifindexes)
        self._sink = Sink(guest.calls, frames=plan.frames) if plan.socket else None
        for number, _ in enumerate(self.maps):
            for cpu, qsize in plan.entries.items():
                self.cpumaps.set(cpu, qsize, map=number)
        self.links: list[Link] = [
            attach_xdp(guest.calls, program, ifindex, plan.mode_of(place))
            for place, (ifindex, program) in enumerate(
                zip(self._ifindexes, self.programs, strict=True)
            )
        ]
        self._attached = self._referenced = True
        port = self._sink.port if self._sink else DISCARD_PORT
        self.traffic = Traffic(guest, plan, self._xdp, port=port, deadline_s=self._rest_s)
        cpumaps, traffic = self.cpumaps, self.traffic
        self.set, self.start_set = cpumaps.set, cpumaps.start_set
        self.has_ended, self.finish_set = cpumaps.has_ended, cpumaps.finish_set
        self.flow, self.send, self.inject = traffic.flow, traffic.send, traffic.inject
        self.sending, self.live = traffic.sending, traffic.live
        self.receive, self.receive_on = traffic.receive, traffic.receive_on

    @property
    def maps(self) -> list[CpuMap]:
        """The cpumaps."""
        return self.cpumaps.maps

    @property
    def cpumap(self) -> CpuMap:
        """The first map."""
        return self.maps[0]

    @property
    def map_id(self) -> int:
        """The first map's id, whether it is still there or not."""
        return self.cpumaps.ids[0]

    @property
    def programs(self) -> list[Program]:
        """The XDP program of each NIC in the plan, which is attached to it."""
        return self._xdp.programs

    @property
    def sent(self) -> int:
        """Frames injected so far."""
        return self.traffic.sent

    @property
    def circumstances(self) -> Circumstances:
        """What is known about the run, for its ledger."""
        maps = self.cpumaps.known
        return Circumstances(
            kernel=self.guest.machine.kernel.numbers,
            mode=Mode(self.plan.mode_of_all),
            cpumaps=maps,
            prog_ids=self._xdp.ids,
            pinned=self._pinned,
            # frames of one flow may overtake each other when their entry is replaced
            ordered=all(len(of.entries) == len({e.cpu for e in of.entries}) for of in maps),
            intact=self._intact,
            gro=self.plan.gro,
            live=tuple(self.traffic.made_live),
            redirects_traced=self._redirects_traced,
            ifindexes=frozenset(self._ifindexes),
        )

    def wait_rest(self, deadline_s: float | None = None) -> Rest:
        """Wait until every frame has come to its end, or the deadline is over.

        Returns:
            What is still under way then; it is true when nothing is.
        """
        limit = deadline_s or self._rest_s
        deadline = time.monotonic() + limit
        while not (rest := self._look()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if not rest:
            told = f"the frames did not all come to their end within {limit:.0f} s"
            self.guest.machine.examine(told)
        # the last hop, from tc ingress to the socket: a softirq's worth of time
        while self._sink and self._sink.accounted() < self._tc.delivered():
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_S)
        return rest

    def _look(self) -> Rest:
        wire, live = self._xdp.answered()
        delivered = self._tc.delivered()
        tracer = self.guest.tracer
        tracer.drain()
        return quiescent(
            tracer.tally,
            self.circumstances,
            injected=self.sent,
            seen=sum(wire.values()) + sum(live.values()),
            redirected=wire[XdpAction.REDIRECT] + live[XdpAction.REDIRECT] + live[XdpAction.TX],
            aborted=wire[XdpAction.ABORTED],
            passed=wire[XdpAction.PASS] + live[XdpAction.PASS],
            delivered=delivered,
        )

    def taken_on(self, cpu: int) -> int:
        """Return the frames that the maps' kthreads have taken on a CPU so far."""
        taken = self._sums().taken
        return sum(n for place, n in taken.items() if place.cpu == cpu)

    def _sums(self) -> Sums:
        self.guest.tracer.drain()
        return add_up(self.guest.tracer.tally, self.circumstances)

    def wait_offered(self) -> None:
        """Wait until every frame sent has been offered to a ring, or cannot be any more.

        If the programs redirect more frames than that, by the deadline, the books tell of them.

        Raises:
            TrafficStalled: some have not within the deadline, nor met the programs.
        """
        if wait_until(lambda: self._offered() + self._spared() >= self.sent, self._rest_s):
            return
        told = f"{self._offered()} of {self.sent} frames sent were offered to a ring"
        if self._answered().total() < self.sent:
            raise self.guest.stalled(told)
        self.guest.machine.examine(told)

    def _offered(self) -> int:
        """Return how many frames have been offered to a ring so far, or failed to be."""
        sums = self._sums()
        return sums.offered.total() + sums.errors.total()

    def _spared(self) -> int:
        """Return how many frames the programs have answered so that no ring is offered them."""
        answered = self._answered()
        return answered.total() - answered[XdpAction.REDIRECT]

    def _answered(self) -> Counter[XdpAction]:
        """Return how many frames, from the wire or live, were answered with each action."""
        wire, live = self._xdp.answered()
        return wire + live

    def detach(self) -> None:
        """Detach the XDP programs by closing their links.

        Raises:
            GuestError: a link was closed before, elsewhere.
        """
        if self._attached:
            self._attached = False
            for link in self.links:
                link.close()

    def reattach(self, nic: int) -> None:
        """Attach the programs to a NIC that was unplugged and is back: another interface.

        Raises:
            GuestError: the kernel refuses it.
        """
        place = self.plan.nics.index(nic)
        ifindex = self.guest.ifindex[interface_name(nic)]
        self._tc.attach(ifindex)
        self.links[place].close()
        mode = self.plan.mode_of(place)
        self.links[place] = attach_xdp(self.guest.calls, self.programs[place], ifindex, mode)

    def dismantle(self) -> None:
        """Detach the XDP programs and drop every reference to the maps: their kthreads end.

        The notes stay readable: the books can be closed afterwards.

        Raises:
            GuestError: something was closed before, elsewhere.
        """
        self.detach()
        if self._referenced:
            self._referenced = False
            self._xdp.close()
            self.cpumaps.close()

    def left(self) -> list[str]:
        """Return which of the run's maps and programs the system still has.

        Not an entry's program where an entry whose kthread has not run yet is leaked.
        """
        known = self.circumstances
        freed = UPDATE_WAITS.holds(known.kernel)
        programs = known.prog_ids | (known.entry_prog_ids if freed else frozenset())
        return [
            f"{what} {number}"
            for what, command, numbers in (
                ("map", MAP_GET_FD_BY_ID, known.map_ids),
                ("program", PROG_GET_FD_BY_ID, programs),
            )
            for number in sorted(numbers)
            if is_alive(self.guest.calls, command, number)
        ]

    def unpins(self) -> None:
        """Tell the books that kthreads may leave their CPU, for one goes offline."""
        self._pinned = False

    def resizes(self) -> None:
        """Tell the books that an entry's program changes the length of frames."""
        self._intact = False

    def trace_redirects(self) -> None:
        """Trace each redirect from here on, and judge them: before the first frame is sent.

        Only so do the books know of skbs that leave by a device.

        Raises:
            GuestError: the kernel has no such event.
        """
        self.guest.tracer.enable("xdp/xdp_redirect")
        self._redirects_traced = True

    def arrivals(self) -> list[Hop]:
        """Return the notes at tc ingress of the frames sent so far, by frame number."""
        return _rows(self._tc.hops(self.sent))

    def sightings(self) -> list[Hop]:
        """Return the notes of the XDP programs of the frames sent so far, by frame number."""
        return _rows(self._xdp.hops(self.sent))

    def metadata(self) -> list[int | None]:
        """Return the number that each frame's metadata told at tc ingress, None without any."""
        return self._tc.metadata(self.sent)

    def traits(self) -> dict[str, int]:
        """Return how many skbs came to tc ingress with a mark, a priority or a hash."""
        return self._tc.traits()

    def close(self) -> Books:
        """Wait for rest, stop tracing, and close the books."""
        self.wait_rest()
        tracer = self.guest.tracer
        tracer.stop()
        tracer.drain()
        if self._sink:
            self._received, self._sums_received = self._sink.stop()
        self.evidence = Evidence(
            injected=self.sent,
            seen=self._xdp.hops(self.sent),
            arrived=self._tc.hops(self.sent),
            trace=tracer.trace(),
            rings=tuple(tracer.stats()),
            socket=self._received,
            flows=self.traffic.flows,
        )
        return close_books(self.evidence, self.circumstances)

    def counted(self) -> tuple[int, int]:
        """Return the live frames redirected and the frames at the stack, as the programs count."""
        _, live = self._xdp.answered()
        return live[XdpAction.REDIRECT], self._tc.delivered()

    def recount(self, frames: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return how often each of the first numbers was seen by XDP and noted at the stack."""
        return self._xdp.hops(frames).count, self._tc.hops(frames).count

    def damaged(self) -> list[int]:
        """Return the frames whose payload was not, to the byte, what the socket received."""
        if self._received is None:
            return []
        both = zip(self._received.counts, self._sums_received, self.traffic.payloads, strict=False)
        return [frame for frame, (n, got, sent) in enumerate(both) if n and got != sent]


def _rows(table: HopTable) -> list[Hop]:
    return [table[frame] for frame in range(len(table))]
