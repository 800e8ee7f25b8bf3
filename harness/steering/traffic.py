"""The frames of a run: from the wire, or made in the guest; and where they are received."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING

from harness.agent.live import LiveRun, run_live
from harness.errors import TrafficError
from harness.guest import guest_address, interface_name, peer_address
from harness.traffic.frames import Flow, Frames, build_frames, build_live
from harness.traffic.injectors import make_injector
from harness.traffic.live import LiveInjector
from harness.traffic.veth import VethInjector, in_turns, mac_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from harness.guest import Guest
    from harness.steering.notes import XdpSide
    from harness.steering.plan import Plan
    from harness.traffic.wire import Injector

STALL_S = 60.0
POLL_S = 0.005
KEEP_BYTES = 16 << 20
PRIMER = bytes.fromhex("ffffffffffff 5254006370f0 88b5").ljust(60, b"\0")
"""A frame of the local experimental Ethertype: no protocol takes it, no program counts it."""


class Traffic:
    """Sends the frames of a run and remembers them.

    Args:
        guest: where to.
        plan: by which NICs, and how many frames at most.
        xdp: the programs that the frames meet.
        port: UDP port of frames for which none is given.
        deadline_s: how long a guest may take for what it does to them.

    Attributes:
        sent: frames injected so far.
        frames: their first `KEEP_BYTES`, as they were sent.
        flows: the flow of each.
        payloads: the sum of each one's payload.
        made_live: numbers of those that were made in the guest.
    """

    def __init__(
        self, guest: Guest, plan: Plan, xdp: XdpSide, *, port: int, deadline_s: float
    ) -> None:
        self._guest = guest
        self._plan = plan
        self._xdp = xdp
        self._port = port
        self._deadline_s = deadline_s
        self.sent = 0
        self.frames: list[bytes] = []
        self.flows = array("I")
        self.payloads = array("I")
        self.made_live: list[range] = []
        self._frame_bytes = 0
        self._injectors = {self._mac(nic): self._make_injector(nic) for nic in plan.nics}

    def _make_injector(self, nic: int) -> Injector:
        guest = self._guest
        stall_s = STALL_S * guest.machine.pace
        if nic in guest.veths:
            veth = guest.veths[nic]
            wire: Injector = VethInjector(guest.calls, veth, self._taken, stall_s=stall_s)
        else:
            wire = make_injector(guest.machine.nics[nic], stall_s=stall_s)
        if not self._plan.live:
            return wire
        program = self._xdp.live[self._plan.nics.index(nic)]
        ifindex = guest.ifindex[interface_name(nic)]
        numbers = self._xdp.numbers
        return LiveInjector(guest.calls, program, numbers, ifindex, wire, self._deadline_s)

    def _taken(self) -> int:
        """Return how many frames from the wire the programs have seen."""
        wire, _ = self._xdp.answered()
        return wire.total()

    def _mac(self, nic: int) -> bytes:
        return bytes.fromhex(self._guest.mac(nic).replace(":", ""))

    def receive_on(self, cpu: int, *, nic: int = 0) -> None:
        """Have a NIC's frames received on a CPU from here on: the producer of what they steer.

        A vector moves when its next interrupt is handled (kernel/irq/migration.c), and a NAPI poll
        under way takes frames without one: frames of no account go first, until one is there.

        Raises:
            GuestError: the NIC's interrupt cannot be moved.
            TrafficStalled: a primer never came through.
        """
        guest, injector = self._guest, self._injectors[self._mac(nic)]
        if isinstance(injector, VethInjector | LiveInjector):
            injector.cpu = cpu
            return
        device = guest.link_target(f"/sys/class/net/{interface_name(nic)}/device").name
        irqs = guest.read("/proc/interrupts").splitlines()
        (irq,) = (line.split(":")[0].strip() for line in irqs if f"{device}-input.0" in line)
        guest.write(f"/proc/irq/{irq}/smp_affinity_list", str(cpu))
        deadline = time.monotonic() + self._deadline_s
        while self._prime(nic) != cpu:
            if time.monotonic() >= deadline:
                raise self._guest.stalled(f"NIC {nic} does not receive on CPU {cpu}")

    def _prime(self, nic: int) -> int:
        """Send a frame of no account and return the CPU that received it."""
        cpus, strays = self._guest.cpus, self._xdp.strays
        before = strays.per_cpu(cpus)
        self._injectors[self._mac(nic)].send([PRIMER])
        deadline = time.monotonic() + self._deadline_s
        while (now := strays.per_cpu(cpus)) == before:
            if time.monotonic() >= deadline:
                raise self._guest.stalled(f"NIC {nic} does not receive")
            time.sleep(POLL_S)
        return next(cpu for cpu in range(cpus) if now[cpu] != before[cpu])

    def flow(self, frames: int, *, nic: int = 0, **how: object) -> Flow:
        """Return a flow to a NIC of this run.

        Args:
            frames: how many.
            nic: which NIC.
            how: other fields of `harness.traffic.frames.Flow`.
        """
        ends = {"source": peer_address(nic), "destination": guest_address(nic)}
        fields = {"destination_port": self._port, **ends, **how}
        return Flow(frames, mac=self._guest.mac(nic), **fields)  # type: ignore[arg-type]

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
        if self._plan.live:
            self._note_live(len(frames))
        data = in_turns(frames.data) if self._guest.veths and rate is None else frames.data
        for mac, batch in groupby(data, key=mac_of):
            self.sent += self._injectors[mac].send(list(batch), rate=rate, progress=progress)
        self._enter(frames)
        return len(frames)

    def live(self, flows: Mapping[int, Flow], *, batch: int = 64, wire: Sequence[Flow] = ()) -> int:
        """Have CPUs of the guest make frames, all at the same time; return how many, each proven.

        The frames of a batch are flushed at its end, as at the end of a NAPI poll, and only then
        are kthreads woken. Not while `sending`: the frames' numbers would clash.

        Args:
            flows: by CPU; each comes in by the NIC that it is addressed to.
            batch: frames in a batch, 256 at most.
            wire: flows to be sent at the same time.

        Raises:
            GuestError: the kernel refuses: EINVAL before 5.18 (harness/model/gates.py,
                LIVE_FRAMES), E2BIG for a larger batch.
            TrafficError: a frame could not be made, or the run is full.
        """
        frames = sum(flow.frames for flow in flows.values())
        self._check_room(frames)
        place_of = {self._mac(nic): place for place, nic in enumerate(self._plan.nics)}
        runs, start = {}, self.sent
        first = start
        for number, (cpu, flow) in enumerate(flows.items()):
            if not flow.frames:
                continue  # the kernel would make one
            made = build_live(flow, number, first=first)
            place = place_of[made.data[0][:6]]
            ifindex = self._guest.ifindex[interface_name(self._plan.nics[place])]
            runs[cpu] = LiveRun(self._xdp.live[place], made.data[0], first, len(made), ifindex)
            self._enter(made)
            first += len(made)
        self._note_live(first - start)
        self.sent = first
        run_live(
            self._guest.calls,
            self._xdp.numbers,
            runs,
            batch=batch,
            deadline_s=self._deadline_s,
            meanwhile=lambda: self.send(wire),
        )
        return self.sent - start

    def stream(self, flow: Flow, *, cpu: int, batch: int) -> None:
        """Have a CPU make the frames of a flow, numbered from 0 each time: for counters only.

        Nothing is remembered of them, and so there can be no books.

        Raises:
            GuestError: the kernel refuses, as in `live`.
            TrafficError: a frame could not be made, or there are more than the run has notes for.
        """
        self._check_room(flow.frames)
        (place,) = (p for p, nic in enumerate(self._plan.nics) if self._guest.mac(nic) == flow.mac)
        ifindex = self._guest.ifindex[interface_name(self._plan.nics[place])]
        (frame,) = build_live(dataclasses.replace(flow, frames=1), 0, first=0).data
        run = {cpu: LiveRun(self._xdp.live[place], frame, 0, flow.frames, ifindex)}
        deadline_s, numbers = self._deadline_s, self._xdp.numbers
        run_live(self._guest.calls, numbers, run, batch=batch, deadline_s=deadline_s)

    def _note_live(self, frames: int) -> None:
        """Take down that the next frames are made in the guest."""
        start = self.sent
        if self.made_live and self.made_live[-1].stop == start:
            start = self.made_live.pop().start
        self.made_live.append(range(start, self.sent + frames))

    def _check_room(self, frames: int) -> None:
        if self.sent + frames > self._plan.frames:
            raise TrafficError(
                f"{self.sent + frames} frames are more than the {self._plan.frames} that this "
                "run has notes for",
                remedy="give the plan a larger `frames`",
            )

    def _enter(self, frames: Frames) -> None:
        self.flows.extend(frames.flows)
        self.payloads.extend(frames.payload_sums())
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

    def receive(self, frames: int, *, nic: int) -> list[bytes]:
        """Return the next frames that the guest sends out by a NIC; fewer if they do not come."""
        return self._injectors[self._mac(nic)].receive(frames, deadline_s=self._deadline_s)
