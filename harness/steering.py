"""One steered run on a guest: frames redirected into cpumaps, and the books of it."""

from __future__ import annotations

import contextlib
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from harness.agent.bpf import (
    MAP_GET_FD_BY_ID,
    PROG_GET_FD_BY_ID,
    CpuMap,
    Link,
    Map,
    Program,
    attach_xdp,
    is_alive,
    load_object,
)
from harness.agent.live import LiveRun, run_live
from harness.agent.sink import Sink
from harness.agent.syscalls import Syscalls
from harness.errors import TrafficError
from harness.guest import ARRIVE, STEER, STEER_FRAGS, guest_address, interface_name, peer_address
from harness.model.gates import UPDATE_WAITS
from harness.plan import SELECTORS, Plan
from harness.trace.events import XdpAction
from harness.trace.evidence import Circumstances, Cpumap, Entry, Evidence, Mode, SocketCounts
from harness.trace.hops import Hop, HopTable
from harness.trace.ledger import close_books
from harness.trace.rest import Rest, quiescent
from harness.trace.tally import add_up
from harness.traffic.frames import Flow, Frames, build_frames, build_live
from harness.traffic.socket import SocketInjector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from harness.agent.syscalls import Started
    from harness.guest import Guest
    from harness.trace.books import Books
    from harness.trace.tally import Sums

TC_ACT_OK, TC_ACT_SHOT = 0, 2
STALL_S = 60.0
REST_S = 60.0
POLL_S = 0.005
KEEP_BYTES = 16 << 20
ASIDE = 1
"""The agent's thread for calls that may block."""
PRIMER = bytes.fromhex("ffffffffffff 5254006370f0 88b5").ljust(60, b"\0")
"""A frame of the local experimental Ethertype: no protocol takes it, no program counts it."""


class Steering:
    """XDP programs that steer into cpumaps, a tc program behind them, and their notes.

    Args:
        guest: where.
        plan: how.

    Attributes:
        maps: the cpumaps; `cpumap` is the first.
        programs: the XDP program of each NIC in the plan, which is attached to it.
        sent: frames injected so far.
        frames: their first `KEEP_BYTES`, as they were sent.
        rings: the last qsize of each entry, by map id and CPU.
        evidence: what the books were closed on; None before.

    Raises:
        GuestError: the kernel refuses a program, a map, an entry or an attachment.
    """

    def __init__(self, guest: Guest, plan: Plan) -> None:
        self.guest = guest
        self.plan = plan
        self.sent = 0
        self.evidence: Evidence | None = None
        self.frames: list[bytes] = []
        self._frame_bytes = 0
        self._flows: list[int] = []
        self._payloads: list[int] = []
        self._made_live: list[range] = []
        self._received: SocketCounts | None = None
        self._sums_received: Sequence[int] = ()
        self._intact = True
        self._pinned = True
        calls, size = guest.calls, plan.max_entries or guest.cpus
        self.maps = [CpuMap(calls, max_entries=size) for _ in range(plan.maps)]
        self._map_ids = [cpumap.id for cpumap in self.maps]
        self._entries: list[list[Entry]] = [[] for _ in self.maps]
        self.rings: dict[tuple[int, int], int] = {}
        self.programs: list[Program] = []
        self._live: list[Program] = []
        self._entry_programs: dict[int, Program] = {}
        self._notes: dict[str, Map] = {}
        for place, _ in enumerate(plan.nics):
            self._load_steer(self.maps[place % plan.maps])
        self._prog_ids = frozenset(program.id for program in (*self.programs, *self._live))
        sizes = dict.fromkeys(("hops", "metadata"), ("max_entries", plan.frames))
        if not plan.metadata:
            del sizes["metadata"]
        self._arrive, programs = load_object(calls, ARRIVE, sizes)
        answer = struct.pack("<I", TC_ACT_OK if plan.socket or plan.stack else TC_ACT_SHOT)
        self._arrive["answer"].update(0, answer).must("set the answer at tc ingress")
        for nic in plan.nics:
            calls.link.call("tc_attach", self._ifindex(nic), programs["arrive"].fd)
        self._sink = Sink(calls, frames=plan.frames) if plan.socket else None
        for number, _ in enumerate(self.maps):
            for cpu, qsize in plan.entries.items():
                self.set(cpu, qsize, map=number)
        self.links: list[Link] = [
            attach_xdp(calls, program, self._ifindex(nic), plan.mode_of(place))
            for place, (nic, program) in enumerate(zip(plan.nics, self.programs, strict=True))
        ]
        self._attached = self._referenced = True
        pace = guest.machine.recipe.accel.pace
        self._injectors = {
            self._mac(nic): SocketInjector(guest.machine.nics[nic], stall_s=STALL_S * pace)
            for nic in plan.nics
        }
        self._rest_s = REST_S * pace

    def _load_steer(self, cpumap: CpuMap) -> None:
        """Load one more steering program, and its twin for live frames.

        All of a run write into the same notes.
        """
        plan = self.plan
        shared: dict[str, tuple[str, int]] = {"cpus": ("fd", cpumap.fd)}
        for name in ("hops", "orders", "strays", "verdicts", "numbers"):
            if name in self._notes:
                shared[name] = ("fd", self._notes[name].fd)
            elif name == "hops":
                shared[name] = ("max_entries", plan.frames)
        path = plan.object or (STEER_FRAGS if plan.frags else STEER)
        maps, programs = load_object(self.guest.calls, path, shared)
        self._notes = self._notes or maps
        selector, targets = SELECTORS[plan.by], len(plan.targets)
        how = struct.pack("<IIQQ", selector, targets, plan.flags, plan.metadata)
        if "steering" in maps:
            maps["steering"].update(0, how).must("set the steering")
        for at, cpu in enumerate(plan.targets if "targets" in maps else ()):
            maps["targets"].update(at, struct.pack("<I", cpu)).must("set a target")
        maps["cpus"].close()
        self.programs.append(programs.get("steer") or next(iter(programs.values())))
        if not plan.object:
            self._live.append(programs["live"])

    def _ifindex(self, nic: int) -> int:
        return self.guest.ifindex[interface_name(nic)]

    def _mac(self, nic: int) -> bytes:
        mac = self.guest.machine.recipe.topology.devices[nic].mac
        return bytes.fromhex(mac.replace(":", ""))

    @property
    def cpumap(self) -> CpuMap:
        """The first map."""
        return self.maps[0]

    @property
    def map_id(self) -> int:
        """The first map's id, whether it is still there or not."""
        return self._map_ids[0]

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
        aside = Syscalls(self.guest.calls.link, task=ASIDE)
        self._take_down(cpu, qsize, prog, map, onward)
        cpumap = self.maps[map]
        return cpumap.start_update(cpu, cpumap.value(qsize, prog), calls=aside)

    def _take_down(
        self, cpu: int, qsize: int, prog: Program | None, map: int, onward: tuple[int, ...]
    ) -> None:
        """Remember an entry that there is from here on, for the books and for the end."""
        if qsize:
            self._entries[map].append(Entry(cpu, prog.id if prog else 0, onward))
            self.rings[self._map_ids[map], cpu] = qsize
        if prog:
            self._entry_programs[prog.fd] = prog

    def has_ended(self, started: Started) -> bool:
        """Tell whether `start_set` has been answered."""
        return self.guest.calls.link.is_answered(started.ticket)

    def finish_set(self, started: Started) -> None:
        """Wait for `start_set` to end.

        Raises:
            GuestError: the kernel refused it.
        """
        self.guest.calls.collect(started).must("update of a cpumap entry")

    def receive_on(self, cpu: int, *, nic: int = 0) -> None:
        """Have a NIC's frames received on a CPU from here on: the producer of what they steer.

        A vector moves when its next interrupt is handled (kernel/irq/migration.c), and a NAPI poll
        under way takes frames without one: frames of no account go first, until one is there.

        Raises:
            GuestError: the NIC's interrupt cannot be moved.
            TrafficError: a primer never came through.
        """
        guest = self.guest
        device = guest.link_target(f"/sys/class/net/{interface_name(nic)}/device").name
        irqs = guest.read("/proc/interrupts").splitlines()
        (irq,) = (line.split(":")[0].strip() for line in irqs if f"{device}-input.0" in line)
        guest.write(f"/proc/irq/{irq}/smp_affinity_list", str(cpu))
        deadline = time.monotonic() + self._rest_s
        while self._prime(nic) != cpu:
            if time.monotonic() >= deadline:
                raise TrafficError(f"NIC {nic} does not receive on CPU {cpu}")

    def _prime(self, nic: int) -> int:
        """Send a frame of no account and return the CPU that received it."""
        cpus = self.guest.cpus
        before = self._notes["strays"].per_cpu(0, cpus)
        self._injectors[self._mac(nic)].send([PRIMER])
        deadline = time.monotonic() + self._rest_s
        while (now := self._notes["strays"].per_cpu(0, cpus)) == before:
            if time.monotonic() >= deadline:
                raise TrafficError(f"NIC {nic} does not receive")
            time.sleep(POLL_S)
        return next(cpu for cpu in range(cpus) if now[cpu] != before[cpu])

    def flow(self, frames: int, *, nic: int = 0, **how: object) -> Flow:
        """Return a flow to a NIC of this run.

        Args:
            frames: how many.
            nic: which NIC.
            how: other fields of `harness.traffic.frames.Flow`.
        """
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

        Flows take turns frame by frame; each goes to the NIC that it is addressed to.

        Raises:
            TrafficError: the guest stopped taking frames, or the run is full.
        """
        return self.inject(build_frames(flows, first=self.sent), rate=rate, progress=progress)

    def inject(
        self,
        frames: Frames,
        *,
        rate: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Inject frames that were built before, numbered from `sent` on; as `send`."""
        self._check_room(len(frames))
        for mac, batch in groupby(frames.data, key=itemgetter(slice(6))):
            self.sent += self._injectors[mac].send(list(batch), rate=rate, progress=progress)
        self._enter(frames)
        return len(frames)

    def live(self, flows: Mapping[int, Flow], *, batch: int = 64) -> int:
        """Have CPUs of the guest make frames, all at the same time; return how many, each proven.

        The frames of a batch are flushed at its end, as at the end of a NAPI poll, and only then
        are kthreads woken. Not while `sending`: the frames' numbers would clash.

        Args:
            flows: by CPU; each comes in by the NIC that it is addressed to.
            batch: frames in a batch, 256 at most.

        Raises:
            GuestError: the kernel refuses: EINVAL before 5.18 (harness/model/gates.py,
                LIVE_FRAMES), E2BIG for a larger batch.
            TrafficError: a frame could not be made, or the run is full.
        """
        frames = sum(flow.frames for flow in flows.values())
        self._check_room(frames)
        place_of = {self._mac(nic): place for place, nic in enumerate(self.plan.nics)}
        runs, first = {}, self.sent
        for number, (cpu, flow) in enumerate(flows.items()):
            if not flow.frames:
                continue  # the kernel would make one
            made = build_live(flow, number, first=first)
            place = place_of[made.data[0][:6]]
            ifindex = self._ifindex(self.plan.nics[place])
            runs[cpu] = LiveRun(self._live[place], made.data[0], first, len(made), ifindex)
            self._enter(made)
            first += len(made)
        numbers = self._notes["numbers"]
        run_live(self.guest.calls, numbers, runs, batch=batch, deadline_s=self._rest_s)
        self._made_live.append(range(self.sent, first))
        self.sent = first
        return frames

    def _check_room(self, frames: int) -> None:
        if self.sent + frames > self.plan.frames:
            raise TrafficError(
                f"{self.sent + frames} frames are more than the {self.plan.frames} that this "
                "run has notes for",
                remedy="give the plan a larger `frames`",
            )

    def _enter(self, frames: Frames) -> None:
        self._flows += frames.flows
        self._payloads.extend(frames.payload_sums())
        for frame in frames.data:
            self._frame_bytes += len(frame)
            if self._frame_bytes > KEEP_BYTES:
                return
            self.frames.append(frame)

    @contextlib.contextmanager
    def sending(
        self, flows: Sequence[Flow], *, rate: float | None = None
    ) -> Iterator[Callable[[], bool]]:
        """Send while a `with` block runs; it is given what tells whether all frames are sent.

        Raises:
            TrafficError: as `send`, at the end.
        """
        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(self.send, flows, rate=rate)
            yield under_way.done
            under_way.result()

    @property
    def circumstances(self) -> Circumstances:
        """What is known about the run, for its ledger."""
        entries = self._entries
        return Circumstances(
            kernel=self.guest.machine.recipe.kernel.numbers,
            mode=Mode(self.plan.mode_of_all),
            cpumaps=tuple(
                Cpumap(map_id, tuple(of)) for map_id, of in zip(self._map_ids, entries, strict=True)
            ),
            prog_ids=self._prog_ids,
            pinned=self._pinned,
            # frames of one flow may overtake each other when their entry is replaced
            ordered=all(len(of) == len({entry.cpu for entry in of}) for of in entries),
            intact=self._intact,
            gro=self.plan.gro,
            live=tuple(self._made_live),
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
        return self._arrive["segments"].sum_over_cpus(0, self.guest.cpus)

    def _look(self) -> Rest:
        cpus, verdicts = self.guest.cpus, self._notes["verdicts"]
        answered = {action: verdicts.sum_over_cpus(action, cpus) for action in XdpAction}
        live = dict.fromkeys(XdpAction, 0)
        if self._made_live:
            live = {
                action: verdicts.sum_over_cpus(len(XdpAction) + action, cpus)
                for action in XdpAction
            }
        delivered = self._delivered()
        tracer = self.guest.tracer
        tracer.drain()
        return quiescent(
            tracer.tally,
            self.circumstances,
            injected=self.sent,
            seen=sum(answered.values()) + sum(live.values()),
            redirected=answered[XdpAction.REDIRECT] + live[XdpAction.REDIRECT] + live[XdpAction.TX],
            aborted=answered[XdpAction.ABORTED],
            passed=answered[XdpAction.PASS] + live[XdpAction.PASS],
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
        """Wait until every frame sent has been offered to a ring, or failed to be.

        Raises:
            TrafficError: some have not within the deadline.
        """
        deadline = time.monotonic() + self._rest_s
        while True:
            sums = self._sums()
            offered = sums.offered.total() + sums.errors.total()
            if offered == self.sent:
                return
            if time.monotonic() >= deadline:
                raise TrafficError(f"{offered} of {self.sent} frames sent were offered to a ring")
            time.sleep(POLL_S)

    def detach(self) -> None:
        """Detach the XDP programs by closing their links.

        Raises:
            GuestError: a link was closed before, elsewhere.
        """
        if self._attached:
            self._attached = False
            for link in self.links:
                link.close()

    def dismantle(self) -> None:
        """Detach the XDP programs and drop every reference to the maps: their kthreads end.

        The notes stay readable: the books can be closed afterwards.

        Raises:
            GuestError: something was closed before, elsewhere.
        """
        self.detach()
        if self._referenced:
            self._referenced = False
            for cpumap, entries in zip(self.maps, self._entries, strict=True):
                for entry in entries:
                    if entry.onward:  # a map and the program of its entry may hold each other
                        cpumap.remove(entry.cpu)
            own = (*self.programs, *self._live)
            for descriptor in (*own, *self._entry_programs.values(), *self.maps):
                descriptor.close()

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

    def arrivals(self) -> list[Hop]:
        """Return the notes at tc ingress of the frames sent so far, by frame number."""
        return self._hops(self._arrive)

    def sightings(self) -> list[Hop]:
        """Return the notes of the XDP programs of the frames sent so far, by frame number."""
        return self._hops(self._notes)

    def _hops(self, maps: dict[str, Map]) -> list[Hop]:
        table = HopTable(maps["hops"].read_first(self.sent))
        return [table[frame] for frame in range(len(table))]

    def metadata(self) -> list[int | None]:
        """Return the number that each frame's metadata told at tc ingress, None without any."""
        told = self._arrive["metadata"].read_first(self.sent)
        return [number - 1 if number else None for (number,) in struct.iter_unpack("<I", told)]

    @property
    def flows(self) -> list[int]:
        """The flow of each frame sent so far."""
        return list(self._flows)

    def receive(self, frames: int, *, nic: int) -> list[bytes]:
        """Return the next frames that the guest sends out by a NIC; fewer if they do not come."""
        return self._injectors[self._mac(nic)].receive(frames, deadline_s=self._rest_s)

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
            seen=HopTable(self._notes["hops"].read_first(self.sent)),
            arrived=HopTable(self._arrive["hops"].read_first(self.sent)),
            trace=tracer.trace(),
            rings=tuple(tracer.stats()),
            socket=self._received,
            flows=self._flows,
        )
        return close_books(self.evidence, self.circumstances)

    def damaged(self) -> list[int]:
        """Return the frames whose payload was not, to the byte, what the socket received."""
        if self._received is None:
            return []
        both = zip(self._received.counts, self._sums_received, self._payloads, strict=False)
        return [frame for frame, (n, got, sent) in enumerate(both) if n and got != sent]
