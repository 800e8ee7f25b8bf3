"""virtme-ng as a launcher: which kernels it takes, and what QEMU is handed through it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import harness.machine.virtme
from harness.errors import KernelNotFound, QemuFailed, ToolMissing
from harness.kernels import KernelImage
from harness.machine import handover
from harness.machine.virtme import VirtmeProcess, choose_export, hand_over
from harness.tests.fakes import LATE_S, ends

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.machine.process import Process

FIRST = 600
SLEEP = "import time; time.sleep(60)"
NINE = "CONFIG_9P_FS={0}\nCONFIG_NET_9P_VIRTIO={0}\n"
FS = "CONFIG_VIRTIO_FS=y\n"


def kernel(tmp_path: Path, config: str | None, *, modules: bool) -> KernelImage:
    path = None
    if config is not None:
        path = tmp_path / "config"
        path.write_text(f"CONFIG_SMP=y\n{config}")
    return KernelImage(
        spec="debian:7.3",
        release="7.3.4-cloud-amd64",
        version="7.3.4-1",
        boot=tmp_path / "vmlinux",
        vmlinuz=tmp_path / "vmlinuz",
        modules=tmp_path if modules else None,
        config=path,
        sha256="0" * 64,
    )


@pytest.fixture
def vng(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of tools with `vng` alone."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(harness.machine.virtme, "VIRTIOFSD", (str(tmp_path / "there"),))
    return tmp_path / "vng"


@pytest.mark.parametrize(
    ("config", "modules"), [(NINE.format("y"), False), (NINE.format("m") + FS, True)]
)
def test_9p_is_taken_where_the_kernel_has_it(
    tmp_path: Path, vng: Path, config: str, modules: bool
) -> None:
    assert choose_export(kernel(tmp_path, config, modules=modules), vng) == "9p"


@pytest.mark.parametrize("config", ["", NINE.format("m"), "CONFIG_9P_FS=y\n"])
def test_a_kernel_with_neither_is_refused(tmp_path: Path, vng: Path, config: str) -> None:
    with pytest.raises(KernelNotFound, match="has neither 9p nor virtiofs") as caught:
        choose_export(kernel(tmp_path, config, modules=False), vng)
    assert "debian:7.3-amd64" in caught.value.remedy


def test_virtiofs_takes_a_daemon(tmp_path: Path, vng: Path) -> None:
    image = kernel(tmp_path, FS, modules=False)
    with pytest.raises(ToolMissing, match="this machine has no virtiofsd") as caught:
        choose_export(image, vng)
    assert "install the package virtiofsd" in caught.value.remedy
    (tmp_path / "there").touch()
    assert choose_export(image, vng) == "virtiofs"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "handover"))
        server.listen(1)
        yield server


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """Who stands for the harness."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def start(tmp_path: Path, parent: int, qemu: str, *args: str) -> VirtmeProcess:
    """Start a Python script through the program that hands over to it."""
    config = {
        "argv": [sys.executable, "-c", qemu],
        "env": {"OURS": "1"},
        "directory": str(tmp_path),
        "first": FIRST,
        "parent": parent,
        "console": "file,id=console,path=ours",
    }
    (tmp_path / "config").write_text(json.dumps(config))
    program = [sys.executable, "-I", handover.__file__, str(tmp_path / "config")]
    return VirtmeProcess([*program, *args], env={}, log=tmp_path / "log")


def give(server: socket.socket, process: Process) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        return hand_over(server, [theirs.fileno()], process, LATE_S), ours


def test_qemu_has_its_descriptors_and_its_console(
    tmp_path: Path, server: socket.socket, parent: subprocess.Popen[bytes]
) -> None:
    told = "os.getpid(), os.environ['OURS'], *sys.argv[1:]"
    script = f"import os, sys\nprint({told}, file=open({FIRST}, 'w'), flush=True)\n{SLEEP}"
    given = ["-chardev", "file,id=console,path=/dev/null", "-kernel", "k"]
    process = start(tmp_path, parent.pid, script, *given)
    try:
        process.qemu, ours = give(server, process)
        with ours, ours.makefile() as said:
            ours.settimeout(LATE_S)
            heard = said.readline().split()
        assert heard == [str(process.pid), "1", "-chardev", "file,id=console,path=ours", *given[2:]]
    finally:
        process.kill()
    assert ends(process.pid)


def test_qemu_ends_with_the_harness(
    tmp_path: Path, server: socket.socket, parent: subprocess.Popen[bytes]
) -> None:
    process = start(tmp_path, parent.pid, SLEEP, "-kernel", "k")
    try:
        pid, ours = give(server, process)
        with ours:
            os.kill(pid, 0)
            parent.kill()
            assert ends(pid)
    finally:
        process.kill()


def test_it_is_asked_for_its_version_by_nobody_in_particular(tmp_path: Path) -> None:
    process = start(
        tmp_path, os.getpid(), 'import sys; print("version", *sys.argv[1:])', "--version"
    )
    assert process.wait(LATE_S) == 0
    assert process.output() == "version --version"


def test_a_virtme_ng_that_starts_nothing_is_heard(tmp_path: Path, server: socket.socket) -> None:
    argv = ["/bin/sh", "-c", "echo virtme-run: no; exit 1"]
    process = VirtmeProcess(argv, env={}, log=tmp_path / "log")
    with pytest.raises(QemuFailed, match="did not start QEMU, it ended: virtme-run: no") as caught:
        hand_over(server, [], process, LATE_S)
    assert "see what it says: " in caught.value.remedy


def test_a_virtme_ng_that_hangs_is_ended(tmp_path: Path, server: socket.socket) -> None:
    process = VirtmeProcess(["sleep", "60"], env={}, log=tmp_path / "log")
    with pytest.raises(QemuFailed, match="took more than 0 s: silently"):
        hand_over(server, [], process, 0.0)
    process.kill()
    assert not process.alive()
