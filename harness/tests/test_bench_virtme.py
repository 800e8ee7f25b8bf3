"""The bench: the boot that ours is compared with."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

import harness.bench.cli
import harness.bench.load
import harness.bench.stress
import harness.bench.traffic
import harness.bench.virtme
from harness.bench.virtme import Peer
from harness.errors import BootFailed, ToolMissing
from harness.kernels import KernelImage
from harness.tests.fakes import ends
from harness.vng import find_vng

if TYPE_CHECKING:
    from harness.machine.machine import Recipe


from harness.tests.benches import RECIPE


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """virtme-ng with a `vng` that does what `$FAKE` says once it has started its QEMU."""
    tools, kernel = tmp_path / "tools", tmp_path / "kernel"
    tools.mkdir()
    (kernel / "modules" / "6.1.0-1-amd64" / "kernel").mkdir(parents=True)
    (kernel / "vmlinuz").touch()
    for name in ("depmod", "modprobe", "busybox"):
        (tools / name).symlink_to("/bin/true")
    vng = tools / "vng"
    vng.write_text(
        "#!/bin/sh\n"
        'echo "$@" >"$TMPDIR/said"\n'
        'while [ "$1" != --qemu ]; do shift; done\n'
        '"$2" --version; "$2" -m 1\n'
        'eval "$FAKE"\n'
    )
    vng.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    image = KernelImage(
        spec="debian:6.1-amd64",
        release="6.1.0-1-amd64",
        version="6.1.1-1",
        boot=kernel / "vmlinux",
        vmlinuz=kernel / "vmlinuz",
        modules=kernel / "modules" / "6.1.0-1-amd64",
        config=None,
        sha256="0" * 64,
    )
    recipe = SimpleNamespace(
        kernel=image,
        topology=SimpleNamespace(cpus=4, memory_mib=512),
        qemu=SimpleNamespace(binary=Path("/bin/echo"), args=("-L", "a b"), env={"X": "1 2"}),
        accel=SimpleNamespace(name="tcg", pace=1.0),
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Peer(vng, cast("Recipe", recipe), scratch)


def test_the_peer_gets_our_kernel_qemu_cpus_and_memory(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", "echo cpumap-lab-answers")
    boot = peer.boot()
    assert 0 < boot.qemu_seconds < boot.seconds
    said = (tmp_path / "scratch" / "said").read_text()
    for word in ("--disable-kvm", "--force-9p", "--cpus 4", "--memory 512M"):
        assert word in said
    kernel = tmp_path / "scratch" / "boot" / "vmlinuz-6.1.0-1-amd64"
    assert str(kernel) in said
    assert kernel.resolve() == (tmp_path / "kernel" / "vmlinuz")
    assert (tmp_path / "scratch" / "lib/modules/6.1.0-1-amd64/kernel").is_dir()
    assert (
        "exec setpriv --pdeathsig KILL -- /bin/echo -L 'a b' \"$@\""
        in (tmp_path / "scratch" / "qemu").read_text()
    )


def test_a_peer_that_ends_without_an_answer_has_failed(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", "echo qemu: Assertion failed; exit 255")
    with pytest.raises(BootFailed, match=r"without an answer: qemu: Assertion failed\n"):
        peer.boot()


def test_a_peer_that_hangs_is_ended_with_all_its_processes(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.bench.virtme, "LIMIT_S", 0.0)
    monkeypatch.setattr(peer, "_limit_s", 3.0)
    child = tmp_path / "child"
    monkeypatch.setenv("FAKE", f"sleep 60 & echo $! >{child}; wait")
    with pytest.raises(BootFailed, match="no answer in"):
        peer.boot()
    assert ends(int(child.read_text()))


def test_the_peers_tools_are_named_when_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda tool, path: None)
    assert find_vng() is None
    with pytest.raises(ToolMissing, match="not installed"):
        Peer.found(RECIPE, tmp_path)
