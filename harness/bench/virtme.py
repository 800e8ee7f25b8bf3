"""The peer: the same kernel, CPUs, memory and QEMU, booted through virtme-ng."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import BootFailed
from harness.machine.process import Process
from harness.vng import lay_out_kernel, need_vng, search_path

if TYPE_CHECKING:
    from pathlib import Path

    from harness.machine.machine import Recipe
    from harness.machine.qemu import Qemu

STANDARD = "debian:6.1-amd64"
"""virtme-ng's root is a 9p or virtiofs export: cloud kernels lack the first, TCG the second."""
ANSWER = "cpumap-lab-answers"
LIMIT_S, END_S = 180.0, 10.0
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class PeerBoot:
    """One boot through virtme-ng, up to the first output of the command in the guest.

    Attributes:
        seconds: since `vng` was started.
        qemu_seconds: since it started QEMU.
    """

    seconds: float
    qemu_seconds: float


class Peer:
    """virtme-ng, ready to boot a kernel.

    Args:
        vng: the program.
        recipe: whose kernel, CPUs, memory, QEMU and accelerator it is given.
        scratch: directory for what it needs; kept between boots, as its users' are.
    """

    def __init__(self, vng: Path, recipe: Recipe, scratch: Path) -> None:
        self._scratch = scratch
        self._started = scratch / "qemu-started"
        kernel, topology = recipe.kernel, recipe.topology
        self._release = kernel.release
        image = lay_out_kernel(kernel, scratch)
        self._argv = [
            *(str(vng), "--run", str(image), "--qemu", str(_wrap(recipe.qemu, scratch))),
            *("--cpus", str(topology.cpus), "--memory", f"{topology.memory_mib}M", "--force-9p"),
            *(["--disable-kvm"] if recipe.accel.name == "tcg" else []),
            # Where the host has no udev the script's ports have no names, and its output goes to
            # the console; which is shown with --verbose only, and then wants to be quietened.
            *("--verbose", "--append", "quiet", "--append", "loglevel=1"),
            # On a busy host it powers off before the console has printed all: give that time.
            *("--exec", f"echo {ANSWER}; sleep 1"),
        ]
        self._env = {"PATH": search_path(vng), "TMPDIR": str(scratch)}
        self._limit_s = LIMIT_S * recipe.accel.pace

    @classmethod
    def found(cls, recipe: Recipe, scratch: Path) -> Peer:
        """Return virtme-ng as it is installed here.

        Raises:
            ToolMissing: it is not, or this machine lacks a tool that it calls.
        """
        vng = need_vng(recipe.kernel)
        return cls(vng, recipe, scratch)

    def boot(self) -> PeerBoot:
        """Boot the kernel, and end it as soon as its command has been heard of.

        Raises:
            BootFailed: it never was.
        """
        self._started.unlink(missing_ok=True)
        output = _Output(self._scratch / "output")
        start, clock = time.monotonic(), time.time()
        process = Process(self._argv, env=self._env, pass_fds=(), log=output.path)
        try:
            while time.monotonic() - start < self._limit_s:
                alive = process.alive()
                if ANSWER in output.read():
                    seconds = time.monotonic() - start
                    host_s = self._started.stat().st_mtime - clock
                    process.wait(END_S)  # it powers off by itself, and tidies up after itself
                    return PeerBoot(seconds, seconds - host_s)
                if not alive:
                    break
                time.sleep(POLL_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            output.close()
        how = f"no answer in {self._limit_s:.0f} s" if alive else "it ended without an answer"
        tail = output.text.split("\n")[-15:]
        last = next((line.strip() for line in reversed(tail) if line.strip()), "it said nothing")
        raise BootFailed(
            f"virtme-ng did not boot {self._release}: {how}: {last}\n" + "\n".join(tail),
            phase="none",
            console=output.text,
            remedy=f"see what it says: {shlex.join(self._argv)}",
        )


class _Output:
    """What vng and its guest print: a FIFO, for QEMU opens it anew, which cuts a file short."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = ""
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> str:
        """Return all that was printed so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 1 << 16):
                self.text += data.decode("utf-8", "replace")
        return self.text

    def close(self) -> None:
        """Read no more; the text stays."""
        os.close(self._fd)


def _wrap(qemu: Qemu, scratch: Path) -> Path:
    """Return a program that is our QEMU: with its firmware and libraries, and ended with vng."""
    wrapper = scratch / "qemu"
    settings = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in qemu.env.items())
    command = shlex.join(["setpriv", "--pdeathsig", "KILL", "--", str(qemu.binary), *qemu.args])
    # vng asks for the version first: that is no start
    stamp = f'[ "$1" = --version ] || : >{shlex.quote(str(scratch / "qemu-started"))}\n'
    wrapper.write_text(f'#!/bin/sh\n{settings}{stamp}exec {command} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper
