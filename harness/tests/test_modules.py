"""Which modules a guest loads, and in which order."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from harness.errors import KernelNotFound
from harness.kernels import KernelImage, plan_modules, read_module
from harness.tests.fakes import (
    PACKERS,
    make_elf,
    make_module,
)


@pytest.fixture
def tree(tmp_path: Path) -> KernelImage:
    directory = tmp_path / "modules"
    (directory / "kernel/net").mkdir(parents=True)
    (directory / "modules.builtin").write_text("kernel/drivers/virtio-pci.ko\n")
    for name, depends in (
        ("virtio_net", "net-failover,failover"),
        ("net-failover", "failover"),
        ("failover", ""),
        ("broken-link", "gone,virtio_pci"),
    ):
        (directory / "kernel/net" / f"{name}.ko").write_bytes(make_module(depends))
    (directory / "kernel/unread.ko").write_bytes(b"never opened")
    return KernelImage(
        "path:x", "6.1.0-1-cloud-amd64", "6.1.7", Path("x"), Path("x"), directory, None, "0"
    )


def test_dependencies_first(tree: KernelImage) -> None:
    plan = plan_modules(tree, ["virtio-net", "virtio_net", "failover"])
    names = [path.name for path in plan.files]
    assert names == ["failover.ko", "net-failover.ko", "virtio_net.ko"]
    assert (plan.builtin, plan.missing) == ((), ())


def test_builtin_and_missing(tree: KernelImage) -> None:
    plan = plan_modules(tree, ["virtio_pci", "none", "virtio-pci", "broken_link"])
    assert [path.name for path in plan.files] == ["broken-link.ko"]
    assert plan.builtin == ("virtio_pci", "virtio-pci")
    assert plan.missing == ("none", "gone")


def test_no_modules_at_all() -> None:
    kernel = KernelImage("path:x", "6.1", "6.1", Path("x"), Path("x"), None, None, "0")
    assert plan_modules(kernel, ["a", "a"]).missing == ("a",)


@pytest.mark.parametrize(
    ("suffix", "packer"), [("", ""), (".xz", "xz"), (".gz", "gzip"), (".zst", "zstd")]
)
def test_packed_modules(tree: KernelImage, suffix: str, packer: str) -> None:
    assert tree.modules is not None
    module = make_module("failover")
    packed = PACKERS[packer](module) if packer else module
    (tree.modules / f"kernel/packed.ko{suffix}").write_bytes(packed)
    plan = plan_modules(tree, ["packed"])
    assert [path.name for path in plan.files] == ["failover.ko", f"packed.ko{suffix}"]
    assert read_module(plan.files[-1]) == module


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("m.ko", b"not ELF", "no kernel module"),
        ("m.ko", make_elf(), r"no \.modinfo"),
        ("m.ko.xz", lzma.compress(make_module())[:-20], "no kernel module"),
        ("m.ko", make_module(vermagic="6.2.0 SMP "), "built for 6.2.0"),
    ],
)
def test_bad_module(tree: KernelImage, name: str, content: bytes, complaint: str) -> None:
    assert tree.modules is not None
    (tree.modules / "kernel" / name).write_bytes(content)
    with pytest.raises(KernelNotFound, match=complaint):
        plan_modules(tree, ["m"])


def test_versioned_module_of_another_release(tree: KernelImage) -> None:
    assert tree.modules is not None
    module = make_module(vermagic="6.1.0-2-cloud-amd64 SMP modversions ")
    (tree.modules / "kernel/m.ko").write_bytes(module)
    assert len(plan_modules(tree, ["m"]).files) == 1
