from __future__ import annotations

import hashlib
import lzma
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from harness.errors import CacheError, KernelNotFound, ToolMissing
from harness.images import Initramfs, build_initramfs, newc, prune
from harness.kernels import KernelImage
from harness.paths import cache_dir
from harness.tests.fakes import make_module


@dataclass(frozen=True)
class Member:
    mode: int
    content: bytes
    owner: tuple[int, int]
    mtime: int


def unpack_as_the_kernel_does(data: bytes) -> list[dict[str, Member]]:
    """Follow init/initramfs.c: archives end to end, zeros between, each on a multiple of four."""
    archives: list[dict[str, Member]] = []
    at = 0
    while at < len(data):
        if data[at] == 0:
            at += 1
            continue
        assert at % 4 == 0
        archives.append({})
        while True:
            assert data[at : at + 6] == b"070701"
            fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
            ino, mode, uid, gid, links, mtime, size, *_, name_size, _ = fields
            name = data[at + 110 : at + 110 + name_size - 1].decode()
            assert data[at + 110 + name_size - 1] == 0
            body = at + (110 + name_size + 3) // 4 * 4
            at = body + (size + 3) // 4 * 4
            if name == "TRAILER!!!":
                break
            assert links < 2, "the kernel would look for a hard link"
            assert ino == 0
            archives[-1][name] = Member(mode, data[body : body + size], (uid, gid), mtime)
    return archives


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelImage:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "virtio_net.ko.xz").write_bytes(lzma.compress(make_module("net-failover")))
    (modules / "net-failover.ko").write_bytes(make_module())
    (modules / "modules.builtin").write_text("kernel/virtio_pci.ko\n")
    path = tmp_path / "vmlinuz"
    return KernelImage("x", "6.1.0-1-cloud-amd64", "6.1.7", path, path, modules, None, "0")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    directory = tmp_path / "guest"
    directory.mkdir()
    for name in ("agent", "steer.bpf.o", "arrive.bpf.o"):
        (directory / name).write_bytes(f"this is {name}".encode())
    return directory


def build(kernel: KernelImage, programs: Path, *modules: str) -> Initramfs:
    return build_initramfs(
        kernel,
        agent=programs / "agent",
        objects=[programs / "steer.bpf.o", programs / "arrive.bpf.o"],
        modules=modules,
    )


def test_content(kernel: KernelImage, programs: Path) -> None:
    image = build(kernel, programs, "virtio_net", "virtio_pci", "none")
    assert image.missing == ("none",)
    base, own = unpack_as_the_kernel_does(image.path.read_bytes())
    assert list(base) == [
        *("proc", "sys", "dev", "tmp", "run", "bpf"),
        *("init", "bpf/arrive.bpf.o", "bpf/steer.bpf.o"),
    ]
    assert base["init"] == Member(0o100755, b"this is agent", (0, 0), 0)
    assert base["bpf/steer.bpf.o"] == Member(0o100644, b"this is steer.bpf.o", (0, 0), 0)
    assert base["proc"] == Member(0o040755, b"", (0, 0), 0)
    assert list(own) == [
        *("modules", "modules/000-net_failover.ko", "modules/001-virtio_net.ko"),
        "modules/order",
    ]
    assert own["modules/order"].content == b"000-net_failover.ko\n001-virtio_net.ko\n"
    assert own["modules/001-virtio_net.ko"].content == make_module("net-failover")


def test_same_input_same_bytes(kernel: KernelImage, programs: Path) -> None:
    first = build(kernel, programs, "virtio_net")
    content = first.path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == first.digest
    first.path.unlink()
    moved = programs.rename(programs.with_name("elsewhere"))
    os.utime(moved / "agent", (time.time() + 3600,) * 2)
    assert build(kernel, moved, "virtio_net") == first
    assert first.path.read_bytes() == content


def test_other_input_other_bytes(kernel: KernelImage, programs: Path) -> None:
    first = build(kernel, programs, "virtio_net")
    assert build(kernel, programs) != first
    (programs / "agent").write_bytes(b"another")
    assert build(kernel, programs, "virtio_net").digest != first.digest


def test_no_modules(kernel: KernelImage, programs: Path) -> None:
    image = build(replace(kernel, modules=None), programs, "virtio_net")
    assert image.missing == ("virtio_net",)
    _, own = unpack_as_the_kernel_does(image.path.read_bytes())
    assert own["modules/order"].content == b""


@pytest.mark.parametrize("size", range(5))
def test_alignment(size: int) -> None:
    packed = newc({"x" * (size + 1): bytes(size)})
    assert len(packed) % 512 == 0
    assert len(unpack_as_the_kernel_does(packed + packed)) == 2


def test_not_built(kernel: KernelImage, programs: Path) -> None:
    (programs / "agent").unlink()
    with pytest.raises(ToolMissing, match="agent") as caught:
        build(kernel, programs)
    assert "make -C guest" in caught.value.remedy


def test_damaged_module(kernel: KernelImage, programs: Path) -> None:
    assert kernel.modules is not None
    (kernel.modules / "net-failover.ko").write_bytes(b"junk")
    with pytest.raises(KernelNotFound, match="no kernel module"):
        build(kernel, programs, "net_failover")


def test_full_disk(
    kernel: KernelImage, programs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CacheError, match="No space left"):
        build(kernel, programs)
    assert not list((tmp_path / "cache/images").iterdir())


def test_only_the_initramfs_used_last_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path))
    for age in range(5):
        path = cache_dir("images") / f"{age}.cpio"
        path.touch()
        os.utime(path, (100 - age, 100 - age))
    prune(2)
    assert sorted(path.name for path in cache_dir("images").iterdir()) == ["0.cpio", "1.cpio"]
