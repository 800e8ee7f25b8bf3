"""A guest that virtme-ng boots: on this machine's own root file system, with the lab's devices.

The second launcher behind the face of `Machine`. virtme-ng makes the root, which is read-only or an
overlay in the guest's memory, and starts what it is told there: the lab's agent, out of a directory
of the run's. A mounted export forbids to save the guest's state (QEMU, hw/9pfs/9p.c), so there are
no clones; `harness.reset` makes one guest serve many cases.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import KernelNotFound, QemuFailed, ToolMissing, UserError
from harness.kernels.examine import options_in
from harness.machine import command, handover
from harness.machine.machine import Machine, Recipe, kernel_hz
from harness.machine.process import Process
from harness.vng import lay_out_kernel, need_vng, search_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.kernels import KernelImage

HOME = "/run/cpumap-lab"
"""Where the run's directory is in the guest: virtme-ng's init has a file system in memory there."""
FIRST_FD = 512
"""The first descriptor of those that QEMU is handed: virtme-ng's own have small numbers."""
START_S = 60.0
END_S = 5.0
POLL_S = 0.01
VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd/virtiofsd", "/usr/lib/virtiofsd",
             "/usr/lib/qemu/virtiofsd")  # fmt: skip
"""Where virtme-ng looks for it beside PATH (virtme/commands/run.py)."""


def choose_export(kernel: KernelImage, vng: Path) -> str:
    """Return how the guest gets at this machine's root: "9p" or "virtiofs".

    Raises:
        KernelNotFound: the kernel has neither.
        ToolMissing: it has virtiofs, and this machine has no virtiofsd.
    """
    options = options_in(kernel)
    if options is None:
        return "9p"  # nothing tells; the boot does

    def has(*names: str) -> bool:
        values = {options.get(name, "n") for name in names}
        return "n" not in values and ("m" not in values or kernel.modules is not None)

    if has("9P_FS", "NET_9P_VIRTIO"):
        return "9p"
    if not has("VIRTIO_FS"):
        raise KernelNotFound(
            f"virtme-ng cannot boot {kernel.spec} ({kernel.release}): it has neither 9p nor "
            "virtiofs (CONFIG_9P_FS and CONFIG_NET_9P_VIRTIO, or CONFIG_VIRTIO_FS)",
            remedy=_other(kernel),
        )
    found = shutil.which("virtiofsd", path=search_path(vng))
    if found is None and not any(Path(path).is_file() for path in VIRTIOFSD):
        raise ToolMissing(
            f"virtme-ng cannot boot {kernel.spec} ({kernel.release}) here: it has virtiofs but no "
            "9p, and this machine has no virtiofsd",
            remedy=f"install the package virtiofsd, or {_other(kernel)}",
        )
    return "virtiofs"


def _other(kernel: KernelImage) -> str:
    if "cloud" in kernel.release and kernel.spec.startswith("debian:"):
        return f"take the standard flavour, {kernel.spec}-amd64, which has 9p"
    return "build it with 9p, or leave out the launcher"


class VirtmeMachine(Machine):
    """A guest of virtme-ng's; arguments, attributes and errors as for `Machine`.

    Args:
        recipe: what to start.
        lay_out: puts the agent, the BPF objects and the modules into a directory.

    Raises:
        KernelNotFound, ToolMissing: virtme-ng cannot boot this kernel, or not here.
        UserError: the guest would need what virtme-ng does not take.
        QemuFailed: it did not start QEMU.
    """

    freezes = False

    def __init__(self, recipe: Recipe, lay_out: Callable[[Path], None]) -> None:
        self._vng = need_vng(recipe.kernel)
        self._export = choose_export(recipe.kernel, self._vng)
        self._lay_out = lay_out
        super().__init__(recipe)

    def _start(self, wiring: command.Wiring, *, share_ram: bool, incoming: bool) -> Process:
        del share_ram, incoming  # there are no clones
        if shlex.quote(str(self.directory)) != str(self.directory):
            raise UserError(
                f"virtme-ng takes no path like {self.directory}",
                remedy="point CPUMAP_LAB_CACHE to one without special characters",
            )
        scratch, home = self.directory / "virtme", self.directory / "home"
        scratch.mkdir()
        home.mkdir()
        self._lay_out(home)
        image = lay_out_kernel(self.recipe.kernel, scratch)
        fds = wiring.fds
        numbers = iter(range(FIRST_FD, FIRST_FD + len(fds)))
        handed = dataclasses.replace(
            wiring,
            agent=next(numbers),
            qmp=next(numbers),
            watch=next(numbers),
            nics=tuple(tuple(next(numbers) for _ in nic) for nic in wiring.nics),
        )
        self.argv = self._command(image, home, handed)
        env = {"PATH": search_path(self._vng), "TMPDIR": str(scratch)}
        with socket.socket(socket.AF_UNIX) as server:
            here = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            try:  # a socket's path is short, and a directory's may be long
                server.bind(f"/proc/self/fd/{here}/handover")
            finally:
                os.close(here)
            server.listen(1)
            process = VirtmeProcess(self.argv, env=env, log=self.directory / "qemu.log")
            try:
                process.qemu = hand_over(server, fds, process, START_S * self.recipe.accel.pace)
            except BaseException:
                process.kill()
                raise
        return process

    def _command(self, image: Path, home: Path, wiring: command.Wiring) -> list[str]:
        recipe = self.recipe
        topology, accel = recipe.topology, recipe.accel
        options = [*command.own_devices(topology, accel.cpu), "-cpu", accel.cpu]
        options += command.channels(topology, wiring)
        if accel.name == "tcg":
            options += ["-accel", accel.argument_for(topology, boots=True)]
        append = ["loglevel=6", "net.ifnames=0", "biosdevname=0"]
        append += command.PATIENCE_ARGS.split()
        append += command.added(topology, kernel_hz(recipe.kernel.config))
        cpus = str(topology.cpus)
        nodes = []
        if topology.nodes > 1:
            cpus += f",sockets={topology.nodes}"
            memory = topology.memory_mib // topology.nodes
            for part in command.node_cpus(topology):
                nodes += ["--numa", f"{memory}M,cpus={part}"]
        return [
            *(str(self._vng), "--run", str(image), "--qemu", str(self._wrap(wiring))),
            *("--cpus", cpus, "--memory", f"{topology.memory_mib}M", *nodes),
            *(["--force-9p"] if self._export == "9p" else []),
            *("--disable-microvm", *(["--disable-kvm"] if accel.name == "tcg" else [])),
            *("--user", "root", "--cwd", "/", "--name", "cpumap-lab"),
            *("--rodir", f"{HOME}={home}"),
            *(word for argument in append for word in ("--append", argument)),
            *("--exec", f"exec {HOME}/init --within {HOME}"),
            f"--qemu-opts={shlex.join(options)}",
        ]

    def _wrap(self, wiring: command.Wiring) -> Path:
        """Return a program that becomes our QEMU (`harness.machine.handover`)."""
        qemu, wrapper = self.recipe.qemu, self.directory / "qemu"
        config = self.directory / "handover.json"
        config.write_text(
            json.dumps(
                {
                    "argv": [str(qemu.binary), *qemu.args],
                    "env": dict(qemu.env),
                    "directory": str(self.directory),
                    "first": FIRST_FD,
                    "console": command.console(wiring),
                    "parent": os.getpid(),
                }
            )
        )
        program = [sys.executable, "-I", handover.__file__, str(config)]
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
        wrapper.chmod(0o755)
        return wrapper


class VirtmeProcess(Process):
    """virtme-ng and the QEMU that it has started.

    Attributes:
        qemu: pid of the latter; None before.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        self.qemu: int | None = None
        super().__init__(argv, env=env, pass_fds=(), log=log)

    @property
    def pid(self) -> int:
        """Process id of QEMU on the host."""
        return self._child.pid if self.qemu is None else self.qemu

    def kill(self) -> None:
        """End QEMU now; virtme-ng takes away what it has made, or is ended as well."""
        if self.alive() and self.qemu is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.qemu, signal.SIGKILL)
            self.wait(END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        super().kill()


def hand_over(server: socket.socket, fds: Sequence[int], process: Process, limit_s: float) -> int:
    """Give QEMU its descriptors as soon as it starts; return its pid.

    Raises:
        QemuFailed: it did not start.
    """
    deadline = time.monotonic() + limit_s
    server.settimeout(POLL_S)
    while True:
        try:
            peer, _ = server.accept()
            break
        except TimeoutError:
            if not process.alive() or time.monotonic() >= deadline:
                how = "ended" if not process.alive() else f"took more than {limit_s:.0f} s"
                raise QemuFailed(
                    f"virtme-ng did not start QEMU, it {how}: {process.output() or 'silently'}",
                    remedy=f"see what it says: {shlex.join(process.argv)}",
                ) from None
    with peer, peer.makefile("rb") as answer:
        peer.settimeout(limit_s)
        try:
            socket.send_fds(peer, [b"."], list(fds))
            return int(answer.readline())
        except (OSError, ValueError) as error:
            raise QemuFailed(f"QEMU was not given its descriptors: {process.output()}") from error
