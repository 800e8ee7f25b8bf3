"""One steered run on a guest: frames redirected into a cpumap, and the books of it."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.agent.bpf import CpuMap, Program, attach_xdp, load_object
from harness.agent.sink import Sink
from harness.agent.syscalls import Syscalls
from harness.errors import TrafficError, UserError
from harness.guest import ARRIVE, STEER, guest_address, interface_name, peer_address
from harness.trace.events import XdpAction
from harness.trace.evidence import Circumstances, Cpumap, Entry, Evidence, Mode
from harness.trace.hops import HopTable
from harness.trace.ledger import close_books
from harness.trace.rest import Rest, quiescent
from harness.trace.tally import add_up
from harness.traffic.frames import Flow, Frames, build_frames
from harness.traffic.socket import SocketInjector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.agent.syscalls import Started
    from harness.guest import Guest
    from harness.trace.books import Books

SELECTORS = {"frame": 0, "flow": 1, "port": 2, "hash": 3}
"""`enum selector` of guest/bpf/steer.bpf.c: what picks a frame's target."""
TC_ACT_OK, TC_ACT_SHOT = 0, 2
STALL_S = 60.0
REST_S = 60.0
POLL_S = 0.005
ASIDE = 1
"""The agent's thread for calls that may block."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How frames are steered.

    Attributes:
        targets: keys of the cpumap, taken in turn.
        entries: qsize of each entry to make, by CPU.
        by: what picks a frame's target: its running number ("frame": round-robin), "flow",
            "port" (destination) or "hash" (of addresses and ports).
        mode: "native" or "generic" XDP.
        flags: of bpf_redirect_map: in its low two bits the action for a missing entry.
        frames: how many frames the run may have.
        socket: deliver to a UDP socket; else the frames end at tc ingress.
        nic: which NIC.
        max_entries: of the cpumap; None is the number of the guest's CPUs.
    """

    targets: tuple[int, ...]
    entries: Mapping[int, int]
    by: str = "frame"
    mode: str = "native"
    flags: int = 0
    frames: int = 65536
    socket: bool = True
    nic: int = 0
    max_entries: int | None = None

    def __post_init__(self) -> None:
        if self.by not in SELECTORS:
            raise UserError(f"unknown selector {self.by!r}: one of {', '.join(SELECTORS)}")
        if not self.targets:
            raise UserError("no targets to steer frames to")


class Steering:
    """An XDP program that steers into a cpumap, a tc program behind it, and their notes.

    Args:
        guest: where.
        plan: how.

    Attributes:
        cpumap: the map; cases may do with its entries what they like, through `set` and `remove`.
        sent: frames injected so far.

    Raises:
        GuestError: the kernel refuses a program, the map, an entry or the attachment.
    """

    def __init__(self, guest: Guest, plan: Plan) -> None:
        self.guest = guest
        self.plan = plan
        self.sent = 0
        self._attached = self._referenced = True
        self._intact = True
        self._flows: list[int] = []
        self._entries: list[Entry] = []
        calls, ifindex = guest.calls, guest.ifindex[interface_name(plan.nic)]
        self.cpumap = CpuMap(calls, max_entries=plan.max_entries or guest.cpus)
        self.map_id = self.cpumap.id
        hops = ("max_entries", plan.frames)
        shared = {"cpus": ("fd", self.cpumap.fd), "hops": hops}
        self._steer, programs = load_object(calls, STEER, shared)
        self.program = programs["steer"]
        self._prog_id = self.program.id
        how = struct.pack("<IIQ", SELECTORS[plan.by], len(plan.targets), plan.flags)
        self._steer["steering"].update(0, how).must("set the steering")
        for at, cpu in enumerate(plan.targets):
            self._steer["targets"].update(at, struct.pack("<I", cpu)).must("set a target")
        self._arrive, programs = load_object(calls, ARRIVE, {"hops": hops})
        answer = struct.pack("<I", TC_ACT_OK if plan.socket else TC_ACT_SHOT)
        self._arrive["answer"].update(0, answer).must("set the answer at tc ingress")
        calls.link.call("tc_attach", ifindex, programs["arrive"].fd)
        self._sink = Sink(calls, frames=plan.frames) if plan.socket else None
        for cpu, qsize in plan.entries.items():
            self.set(cpu, qsize)
        self.xdp = attach_xdp(calls, self.program, ifindex, plan.mode)
        pace = guest.machine.recipe.accel.pace
        self._injector = SocketInjector(guest.machine.nics[plan.nic], stall_s=STALL_S * pace)
        self._rest_s = REST_S * pace

    def set(self, cpu: int, qsize: int, prog: Program | None = None) -> None:
        """Make or replace an entry of the cpumap.

        Raises:
            GuestError: the kernel refuses it.
        """
        self.cpumap.set(cpu, qsize, prog)
        self._entries.append(Entry(cpu, prog.id if prog else 0))

    def start_set(self, cpu: int, qsize: int, prog: Program | None = None) -> Started:
        """Start to make or replace an entry; a held CPU lets it end only when it is released.

        (cpu_map_update_elem waits for the new kthread's first run: 6.5, 6.1.45.)
        """
        aside = Syscalls(self.guest.calls.link, task=ASIDE)
        self._entries.append(Entry(cpu, prog.id if prog else 0))
        return self.cpumap.start_update(cpu, self.cpumap.value(qsize, prog), calls=aside)

    def finish_set(self, started: Started) -> None:
        """Wait for `start_set` to end.

        Raises:
            GuestError: the kernel refused it.
        """
        self.guest.calls.collect(started).must("update of a cpumap entry")

    def flow(self, frames: int, **how: object) -> Flow:
        """Return a flow to this run's NIC; `how` are fields of `harness.traffic.frames.Flow`."""
        nic = self.plan.nic
        mac = self.guest.machine.recipe.topology.devices[nic].mac
        port = self._sink.port if self._sink else 9
        ends = {"source": peer_address(nic), "destination": guest_address(nic)}
        return Flow(frames, mac=mac, **{"destination_port": port, **ends, **how})  # type: ignore[arg-type]

    def send(
        self,
        flows: Sequence[Flow],
        *,
        rate: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Inject the frames of some flows and return how many: each proven sent.

        Raises:
            TrafficError: the guest stopped taking frames, or the run is full.
        """
        if any(flow.vlan is not None for flow in flows):
            self._intact = False  # the stack strips the tag
        return self.inject(build_frames(flows, first=self.sent), rate=rate, progress=progress)

    def inject(
        self,
        frames: Frames,
        *,
        rate: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Inject frames that were built before, numbered from `sent` on; as `send`."""
        if self.sent + len(frames) > self.plan.frames:
            raise TrafficError(
                f"{self.sent + len(frames)} frames are more than the {self.plan.frames} that this "
                "run has notes for",
                remedy="give the plan a larger `frames`",
            )
        sent = self._injector.send(frames.data, rate=rate, progress=progress)
        self.sent += sent
        self._flows += frames.flows
        return sent

    @property
    def circumstances(self) -> Circumstances:
        """What is known about the run, for its ledger."""
        return Circumstances(
            kernel=self.guest.machine.recipe.kernel.numbers,
            mode=Mode(self.plan.mode),
            cpumaps=(Cpumap(self.map_id, tuple(self._entries)),),
            prog_ids=frozenset({self._prog_id}),
            # frames of one flow may overtake each other when their entry is replaced
            ordered=len(self._entries) == len({entry.cpu for entry in self._entries}),
            intact=self._intact,
        )

    def wait_rest(self, deadline_s: float | None = None) -> Rest:
        """Wait until every frame has come to its end, or the deadline is over.

        Returns:
            What is still under way then; it is true when nothing is.
        """
        deadline = time.monotonic() + (deadline_s or self._rest_s)
        while not (rest := self._look()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        # the last hop, from tc ingress to the socket: a softirq's worth of time
        while self._sink and self._sink.accounted() < self._delivered():
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_S)
        return rest

    def _delivered(self) -> int:
        return self._arrive["orders"].sum_over_cpus(0, self.guest.cpus)

    def _look(self) -> Rest:
        cpus = self.guest.cpus
        answered = {
            action: self._steer["verdicts"].sum_over_cpus(action, cpus) for action in XdpAction
        }
        delivered = self._delivered()
        tracer = self.guest.tracer
        tracer.drain()
        return quiescent(
            tracer.tally,
            self.circumstances,
            injected=self.sent,
            seen=sum(answered.values()),
            redirected=answered[XdpAction.REDIRECT],
            aborted=answered[XdpAction.ABORTED],
            passed=answered[XdpAction.PASS],
            delivered=delivered,
        )

    def taken_on(self, cpu: int) -> int:
        """Return the frames that this map's kthreads have taken on a CPU so far."""
        tracer = self.guest.tracer
        tracer.drain()
        taken = add_up(tracer.tally, self.circumstances).taken
        return sum(n for place, n in taken.items() if place.cpu == cpu)

    def wait_offered(self) -> None:
        """Wait until every frame sent has been offered to a ring, or failed to be.

        Raises:
            TrafficError: some have not within the deadline.
        """
        deadline = time.monotonic() + self._rest_s
        while True:
            self.guest.tracer.drain()
            sums = add_up(self.guest.tracer.tally, self.circumstances)
            offered = sums.offered.total() + sums.errors.total()
            if offered == self.sent:
                return
            if time.monotonic() >= deadline:
                raise TrafficError(f"{offered} of {self.sent} frames sent were offered to a ring")
            time.sleep(POLL_S)

    def detach(self) -> None:
        """Detach the XDP program by closing its link.

        Raises:
            GuestError: the link was closed before, elsewhere.
        """
        if self._attached:
            self._attached = False
            self.xdp.close()

    def dismantle(self) -> None:
        """Detach the XDP program and drop every reference to the map: its kthreads end.

        The notes stay readable: the books can be closed afterwards.

        Raises:
            GuestError: something was closed before, elsewhere.
        """
        self.detach()
        if self._referenced:
            self._referenced = False
            for descriptor in (self.program, self._steer["cpus"], self.cpumap):
                descriptor.close()

    def close(self) -> Books:
        """Wait for rest, stop tracing, and close the books."""
        self.wait_rest()
        tracer = self.guest.tracer
        socket = self._sink.stop() if self._sink else None
        tracer.stop()
        tracer.drain()
        return close_books(
            Evidence(
                injected=self.sent,
                seen=HopTable(self._steer["hops"].read_first(self.sent)),
                arrived=HopTable(self._arrive["hops"].read_first(self.sent)),
                trace=tracer.trace(),
                rings=tuple(tracer.stats()),
                socket=socket,
                flows=self._flows,
            ),
            self.circumstances,
        )
