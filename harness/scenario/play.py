"""Play a scenario on a guest: its maps and entries, its traffic, and its timeline meanwhile."""

from __future__ import annotations

import errno as errnos
from pathlib import Path
from typing import TYPE_CHECKING

from harness.agent.bpf import load_object
from harness.entries import load_device, load_onward, load_verdicts
from harness.errors import GuestError
from harness.guest import interface_name
from harness.hold import Hold
from harness.model.gates import LIVE_FRAMES
from harness.plug import plug_cpu, plug_nic, set_link, set_online, unplug_cpu, unplug_nic
from harness.scenario.conflicts.traffic import FLOW_KEYS
from harness.scenario.sender import ThreadSender, TurnSender
from harness.steering import Plan, Steering
from harness.trace.events import XdpAction
from harness.trace.latency import Waits, describe
from harness.traffic.frames import Reel
from harness.traffic.pcap import Capture, read_capture
from harness.traffic.turns import Pace, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.agent.bpf import Program
    from harness.agent.syscalls import Started
    from harness.guest import Guest
    from harness.scenario import parts
    from harness.scenario.schema import Scenario
    from harness.traffic.frames import Flow

MISS_FLAGS = {"aborted": 0, "drop": 1, "pass": 2, "tx": 3}
"""`enum xdp_action` in the low bits of bpf_redirect_map's flags."""
DRAIN_FRAMES = 8192
"""The guest's trace buffers are read so often while frames go in, for they would overrun."""
DEFAULT_MTU = 1500
OWN = "/own"
"""Where a user's object files go in the guest."""


class Play:
    """A scenario under way.

    Args:
        guest: where.
        scenario: expanded.

    Attributes:
        steering: the run.
        failures: what actions answered and should not have.
        notes: what else the reader has to know.
        late: by how much frames with a time went after it; None where none has one.
        rewrites: a program changes frames, so that payloads need not be what they were.

    Raises:
        GuestError: the kernel refuses something that stands outside the timeline.
    """

    def __init__(self, guest: Guest, scenario: Scenario) -> None:
        self._guest = guest
        self._scenario = scenario
        self._objects: dict[str, str] = {}
        self._held: dict[int, Hold] = {}
        self._started: list[tuple[int, int, Started]] = []
        self.failures: list[str] = []
        self.notes: list[str] = []
        self.late: Waits | None = None
        self.rewrites = False
        for cpu in scenario.offline:
            set_online(guest, cpu, online=False)
        self._injector = self._choose_injector()
        self._inside = self._injector in ("live", "veth")
        for number, _ in enumerate(scenario.nics):
            if self._injector == "veth" and number not in guest.veths:
                guest.put_veth(number)
            self._set_mtu(number)
        self.steering = Steering(
            guest,
            Plan(
                scenario.targets,
                {},
                by=scenario.steer.by,
                modes=scenario.modes,
                flags=MISS_FLAGS[scenario.steer.miss],
                frames=scenario.frames,
                socket=scenario.socket,
                nics=tuple(range(len(scenario.nics))),
                maps=scenario.maps,
                gro=bool(scenario.gro),
                frags=scenario.frags,
                live=self._injector == "live",
                object=self._upload(scenario.steer.object) if scenario.steer.object else "",
            ),
        )
        if (
            scenario.offline
            or scenario.spare_cpus
            or any(step.do == "offline" for step in scenario.timeline)
        ):
            self.steering.unpins()
        for entry in scenario.entries:
            prog, onward = self._load(entry.program, entry.map)
            self.steering.set(entry.cpu, entry.qsize, prog, map=entry.map, onward=onward)
        for number, _ in enumerate(scenario.nics):
            self._route(number)

    def _choose_injector(self) -> str:
        """Return what the scenario says, or what stands in for it on an old kernel."""
        if self._scenario.injector != "live":
            return self._scenario.injector
        kernel = self._guest.machine.kernel
        if LIVE_FRAMES.holds(kernel.numbers):
            return "live"
        since = ".".join(map(str, LIVE_FRAMES.since))
        self.notes.append(f"{kernel.release} makes no live frames ({since} does): veth instead")
        return "veth"

    def run(self, advance: Callable[[int], None]) -> None:
        """Send all frames, and act when it is time to.

        Args:
            advance: told now and then how many frames have gone.

        Raises:
            TrafficError: the guest stopped taking frames.
            HoldBroken: a consumer that was to be held ran.
        """
        sources = [self._source(flow) for flow in self._scenario.traffic]
        flows = zip(sources, self._scenario.traffic, strict=True)
        paces = [
            Pace(source.frames, flow.rate, flow.burst, getattr(source, "due_s", ()))
            for source, flow in flows
        ]
        turns = take_turns(paces, rate=self._scenario.rate)
        frames = Reel(sources, turns.flows)
        # what happens when, in order: first what is at rest, then what is done
        moments = [(at, 0, _REST) for at in turns.rests]
        moments += [(at, 1, _DRAIN) for at in range(DRAIN_FRAMES, len(frames), DRAIN_FRAMES)]
        steps = list(enumerate(self._scenario.timeline))
        for number, step in steps:
            if step.seconds is None:
                at = len(frames) if step.at is None else min(step.at, len(frames))
                moments.append((at, 2, number))
        moments.sort(key=lambda moment: moment[:2])
        timed = sorted((s.seconds, number) for number, s in steps if s.seconds is not None)
        stops = [at for at, _, _ in moments]
        kind: type[TurnSender | ThreadSender] = TurnSender if self._inside else ThreadSender
        with kind(self.steering.inject, frames, turns, stops) as sender:
            while moments or timed or not sender.done:
                sender.check()
                if timed and sender.elapsed_s >= timed[0][0]:
                    self._act(timed.pop(0)[1])
                elif moments and sender.sent >= moments[0][0]:
                    _, _, what = moments.pop(0)
                    if self._flows_on(what):
                        sender.let_on()
                        self._meet(what)
                    else:
                        self._meet(what)
                        sender.let_on()
                else:
                    sender.go_on()
                advance(sender.sent)
            sender.check()
        if sender.late_s:
            self.late = describe(sorted(late * 1e9 for late in sender.late_s))
            self.notes += self._tell_late(self.late)

    def _source(self, flow: parts.Traffic) -> Flow | Capture:
        if flow.pcap:
            raw = bytes.fromhex(self._guest.mac(flow.nic).replace(":", ""))
            how = {"most": flow.frames, "loop": flow.loop}
            capture = read_capture(Path(flow.pcap), mac=raw, speed=flow.speed, **how)
            self.steering.resizes()  # VLAN tags are stripped
            if capture.left_out:
                self.notes.append(
                    f"{flow.pcap}: {capture.left_out} of {capture.left_out + capture.kept} "
                    "frames carry no number and were left out"
                )
            return capture
        if flow.vlan is not None:
            self.steering.resizes()
        how = {key: value for key in FLOW_KEYS if (value := getattr(flow, key)) is not None}
        return self.steering.flow(flow.frames, nic=flow.nic, **how)

    def _tell_late(self, late: Waits) -> list[str]:
        if not any(flow.speed for flow in self._scenario.traffic):
            return []
        return [
            f"frames of the replay were late by {late.p50 / 1000:.1f} ms (median), "
            f"{late.p99 / 1000:.1f} ms (99 %), {late.max / 1000:.1f} ms (the latest)"
        ]

    def _flows_on(self, what: int) -> bool:
        """Tell whether more frames go while this is done: those up to the next moment."""
        if what < 0:
            return False
        step = self._scenario.timeline[what]
        return step.after == "sent" and step.at != 0

    def _meet(self, what: int) -> None:
        if what == _DRAIN:
            self._guest.tracer.drain()
        elif what == _REST:
            self.steering.wait_rest()
        else:
            after = self._scenario.timeline[what].after
            if after == "offered":
                self.steering.wait_offered()
            elif after == "rest":
                self.steering.wait_rest()
            self._act(what)

    def _act(self, number: int) -> None:
        step = self._scenario.timeline[number]
        cpu = step.cpu if step.cpu is not None else -1
        answer = 0
        if step.do == "hold":  # an error there is none of the kernel's answers
            self._held[cpu] = Hold(self.steering, cpu).__enter__()
        elif step.do == "release":
            self._held.pop(cpu).__exit__(None, None, None)
            self._collect(cpu)
        try:
            if step.do in ("update", "replace"):
                self._update(number, step, cpu)
                if self._started and self._started[-1][0] == number:
                    return  # it is answered when its CPU is released
            elif step.do == "delete":
                self.steering.maps[step.map].remove(cpu)
            elif step.do in ("offline", "online"):
                set_online(self._guest, cpu, online=step.do == "online")
            elif step.do == "detach":
                self.steering.detach()
            elif step.do == "remove_nic":
                self._remove_nic(number, step.nic or 0)
            elif step.do in ("plug", "unplug"):
                self._plug(step)
            elif step.do in ("link_down", "link_up"):
                set_link(self._guest, step.nic or 0, up=step.do == "link_up")
            elif step.do == "close":
                self.steering.dismantle()
        except GuestError as error:
            answer = error.errno
        self._compare(number, answer)

    def _update(self, number: int, step: parts.Step, cpu: int) -> None:
        prog, onward = self._load(step.program, step.map)
        how = {"map": step.map, "onward": onward}
        if cpu in self._held:
            started = self.steering.start_set(cpu, step.qsize or 0, prog, **how)  # type: ignore[arg-type]
            self._started.append((number, cpu, started))
            return
        try:
            self.steering.set(cpu, step.qsize or 0, prog, **how)  # type: ignore[arg-type]
        except GuestError:
            if prog:
                prog.close()
            raise

    def _collect(self, cpu: int) -> None:
        """Take down what updates of a CPU's entry have answered that waited for its release."""
        mine = [each for each in self._started if each[1] == cpu]
        self._started = [each for each in self._started if each[1] != cpu]
        for number, _, started in mine:
            answer = 0
            try:
                self.steering.finish_set(started)
            except GuestError as error:
                answer = error.errno
            self._compare(number, answer)

    def _compare(self, number: int, answer: int) -> None:
        step = self._scenario.timeline[number]
        wanted = step.errno or "success"
        found = errnos.errorcode.get(answer, f"errno {answer}") if answer else "success"
        if found != wanted:
            whom = "" if step.cpu is None else f" of CPU {step.cpu}"
            self.failures.append(
                f"timeline[{number}]: {step.do}{whom}: expected {wanted}, found {found}"
            )

    def _remove_nic(self, number: int, nic: int) -> None:
        self._guest.remove_nic(nic)
        name = interface_name(nic)
        if self._guest.has_interface(name):  # unbinding waits for unregister_netdev
            self.failures.append(f"timeline[{number}]: remove_nic: {name} is still there")

    def _plug(self, step: parts.Step) -> None:
        if step.cpu is not None:
            (plug_cpu if step.do == "plug" else unplug_cpu)(self._guest, step.cpu)
            return
        nic = step.nic or 0
        if step.do == "unplug":
            unplug_nic(self._guest, nic)
            return
        plug_nic(self._guest, nic)
        self._set_mtu(nic)
        self.steering.reattach(nic)
        self._route(nic)

    def _set_mtu(self, nic: int) -> None:
        if self._scenario.mtu != DEFAULT_MTU:
            self._guest.set_mtu(nic, self._scenario.mtu)

    def _route(self, nic: int) -> None:
        """Have a NIC's frames received where the scenario says."""
        cpu = self._scenario.nics[nic].receive_on
        if cpu is None and self._inside:
            cpu = self._scenario.undisturbed[0]
        if cpu is not None:
            self.steering.receive_on(cpu, nic=nic)

    def _load(
        self, program: parts.Program | None, of_map: int
    ) -> tuple[Program | None, tuple[int, ...]]:
        """Load an entry's program: it, and the CPUs that it redirects to."""
        if program is None:
            return None, ()
        if program.verdicts:
            verdicts = [int(XdpAction[verdict.upper()]) for verdict in program.verdicts]
            return load_verdicts(self._guest, verdicts), ()
        onto = self.steering.maps[of_map if program.to_map is None else program.to_map]
        if program.to_cpu is not None:
            return load_onward(self._guest, onto, program.to_cpu), (program.to_cpu,)
        if program.to_nic is not None:
            ifindex = self._guest.ifindex[interface_name(program.to_nic)]
            return load_device(self._guest, ifindex), ()
        if program.resizes:
            self.steering.resizes()
            self.rewrites = True
        path = self._upload(program.object or "")
        shared = {"cpus": ("fd", onto.fd)} if program.onward else {}
        maps, programs = load_object(self._guest.calls, path, shared)
        for each in maps.values():
            each.close()
        (loaded,) = programs.values()
        return loaded, program.onward

    def _upload(self, path: str) -> str:
        """Bring a user's object file into the guest and return its path there."""
        if path not in self._objects:
            there = f"{OWN}-{len(self._objects)}.bpf.o"
            self._guest.calls.link.call("write", there, Path(path).read_bytes())
            self._objects[path] = there
        return self._objects[path]


_REST, _DRAIN = -2, -1
