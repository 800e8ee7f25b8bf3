"""What goes into a snapshot, and the room that it lies in."""

from __future__ import annotations

from pathlib import Path

import pytest

import harness.machine.machine
import harness.machine.snapshot
from harness.images import Initramfs
from harness.kernels import KernelImage
from harness.machine.machine import Recipe
from harness.machine.qemu import Qemu
from harness.machine.topology import Accel, Topology
from harness.tests.snapshots.machines import FakeMachine


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(FakeMachine, "made", [])
    monkeypatch.setattr(harness.machine.snapshot, "Machine", FakeMachine)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache/snapshots"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    config = tmp_path / "config"
    config.write_text("# a comment\nCONFIG_HZ_250=y\nCONFIG_HZ=250\n")
    return Recipe(
        Qemu(Path("/q/qemu"), (10, 0, 2), "QEMU 10.0.2", ("-L", "/q"), {}, "1" * 64, "cache"),
        Accel("tcg", "multi", "because"),
        KernelImage(
            spec="debian:6.1",
            release="6.1.0-1-cloud-amd64",
            version="6.1.192-2",
            boot=Path("/k/vmlinux"),
            vmlinuz=Path("/k/vmlinuz"),
            modules=None,
            config=config,
            sha256="2" * 64,
        ),
        Initramfs(Path("/i/initramfs.cpio"), "3" * 64),
        Topology(),
    )
