"""How many frames a second reach a guest, and which stage of their way is the limit.

Four stages, each the one before and more: the sender into a socket that always has room; QEMU's
main loop reading them and dropping them at once; a guest whose XDP program drops them; and the
whole way, through the cpumap and the stack into a UDP socket.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import tempfile
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.bench.load import Load, Stopwatch, vcpu_threads
from harness.errors import TrafficError
from harness.guest import Guest
from harness.machine.process import Process
from harness.machine.snapshot import clone
from harness.paths import cache_dir
from harness.steering import Plan, Steering
from harness.traffic.frames import Flow, build_frames
from harness.traffic.socket import SocketInjector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.machine.machine import Recipe
    from harness.machine.qemu import Qemu
    from harness.machine.snapshot import Snapshot

STAGES = ("sender", "qemu", "xdp_drop", "cpumap")
CHUNK = 64
"""Frames that any socket buffer takes."""
QSIZE = 16384
"""The largest that a cpumap takes: the bench looks for speed, not for what a full queue does."""
XDP_DROP = 1
STALL_S = 60.0
READY_S = 20.0


@dataclass(frozen=True, slots=True)
class Injection:
    """Frames sent, and all of them accounted for.

    Attributes:
        frames: how many.
        send_s: seconds until the last one was sent.
        rest_s: seconds until every one was known to have arrived (`send_s` and more).
        load: while they were sent; None for the sender alone, which never blocks.
    """

    frames: int
    send_s: float
    rest_s: float
    load: Load | None

    @property
    def rate(self) -> float:
        """Frames per second, from the first one sent to the last one known to have arrived."""
        return self.frames / self.rest_s


def send_only(frames: Sequence[bytes]) -> Injection:
    """Send frames into a socket that always has room; only the sending counts."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        injector = SocketInjector(ours, stall_s=STALL_S)
        taken = 0.0
        for at in range(0, len(frames), CHUNK):
            chunk = frames[at : at + CHUNK]
            start = time.monotonic()
            injector.send(chunk)
            taken += time.monotonic() - start
            for _ in chunk:
                theirs.recv(2048)
    return Injection(len(frames), taken, taken, None)


def send_to_qemu(qemu: Qemu, frames: Sequence[bytes]) -> Injection:
    """Send frames to a QEMU without a guest, which reads and drops them.

    Raises:
        QemuFailed: QEMU cannot be started.
        TrafficError: it stopped taking frames.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, _scratch() as scratch:
        # A hub drops what it has nobody to give to, but only takes it if it has a second port.
        hub = ["-netdev", "hubport,id=in,hubid=0,netdev=n0", "-netdev", "hubport,id=out,hubid=0"]
        fd = theirs.fileno()
        reader = ["-netdev", f"dgram,id=n0,local.type=fd,local.str={fd}", *hub]
        bare = ["-nodefaults", "-no-user-config", "-display", "none", "-machine", "none"]
        process = Process(
            [str(qemu.binary), *qemu.args, *bare, *reader],
            env=qemu.env,
            pass_fds=(fd,),
            log=Path(scratch) / "qemu.log",
        )
        try:
            theirs.close()
            injector = SocketInjector(ours, stall_s=STALL_S)
            injector.send(frames[:CHUNK])
            _wait_read(ours, process, time.monotonic() + READY_S)
            stopwatch, start = Stopwatch(process.pid), time.monotonic()
            injector.send(frames)
            send_s, load = time.monotonic() - start, stopwatch.read()
            _wait_read(ours, process, time.monotonic() + STALL_S)
            return Injection(len(frames), send_s, time.monotonic() - start, load)
        finally:
            process.kill()


def _scratch() -> tempfile.TemporaryDirectory[str]:
    # named like a machine's, so that it is swept like one if we are killed
    return tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=cache_dir("run"))


def _wait_read(sock: socket.socket, process: Process, deadline: float) -> None:
    """Wait until QEMU has read all that was sent (unix(7): SIOCOUTQ)."""
    unread = array.array("i", [1])
    while True:
        fcntl.ioctl(sock, termios.TIOCOUTQ, unread)
        if unread[0] == 0:
            return
        if time.monotonic() > deadline or not process.alive():
            raise TrafficError(f"QEMU does not read its socket: {process.failure()}")
        time.sleep(0.001)


def send_to_guest(
    recipe: Recipe, snapshot: Snapshot, frames: int, *, drop: bool = False
) -> Injection:
    """Send frames to a fresh clone and close the books.

    Args:
        recipe: of the guest.
        snapshot: of the guest.
        frames: how many.
        drop: have the XDP program drop them; else they are steered to each CPU in turn and
            delivered to a UDP socket.

    Raises:
        TrafficError: the books do not balance, or not every frame arrived.
        LabError: whatever else stood in the way.
    """
    cpus = range(recipe.topology.cpus)
    entries = {} if drop else dict.fromkeys(cpus, QSIZE)
    plan = Plan(
        targets=tuple(cpus),
        entries=entries,
        flags=XDP_DROP if drop else 0,
        frames=frames,
        socket=not drop,
    )
    with clone(recipe, snapshot) as machine:
        steering = Steering(Guest.of(machine, snapshot.prepared), plan)
        ready = build_frames([steering.flow(frames)])
        stopwatch = Stopwatch(machine.process.pid, vcpu_threads(machine))
        start = time.monotonic()
        steering.inject(ready)
        send_s, load = time.monotonic() - start, stopwatch.read()
        steering.wait_rest()
        rest_s = time.monotonic() - start
        books = steering.close()
    arrived = books.dropped if drop else books.socket
    if not books.balanced or arrived != frames:
        reasons = "; ".join(books.reasons) or f"queues were full for {books.queue_drops}"
        raise TrafficError(
            f"of {frames} frames sent to {recipe.kernel.spec}, {arrived} are proven to have "
            f"arrived: {reasons}",
            remedy="a rate without proof of delivery is no rate: run the bench again on an idle "
            "machine; if it stays, it is a defect of the kernel or of the lab",
        )
    return Injection(frames, send_s, rest_s, load)


def sample_frames(recipe: Recipe, count: int) -> Sequence[bytes]:
    """Return frames like those that a guest is sent, for the stages without a guest."""
    mac = recipe.topology.devices[0].mac
    return build_frames([Flow(count, source="10.0.0.1", destination="10.0.0.2", mac=mac)]).data
