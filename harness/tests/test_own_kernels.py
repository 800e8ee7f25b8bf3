"""Kernels from files of one's own: package files, installed ones, source trees, a vmlinux."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import harness.kernels.installed
from harness.errors import KernelNotFound
from harness.kernels import cached, plan_modules, prune, resolve
from harness.landing import sha256_of
from harness.tests.fakes import (
    PVH,
    make_ar,
    make_bzimage,
    make_deb,
    make_elf,
    make_module,
    make_rpm,
    make_vmlinux,
    zstd,
)

if TYPE_CHECKING:
    from pathlib import Path

REL = "6.1.0-1-cloud-amd64"
"""As the bzImages and modules of fakes call themselves."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def litter(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.name.endswith((".part", ".tmp"))]


# Packages

Members = dict[str, bytes | str]
BOOT: Members = {
    f"boot/vmlinuz-{REL}": make_bzimage(),
    f"boot/config-{REL}": b"CONFIG_HZ=250\n",
    f"boot/System.map-{REL}": b"",
}
MODULES: Members = {
    f"lib/modules/{REL}/modules.builtin": b"kernel/a.ko\n",
    f"lib/modules/{REL}/build": "/usr/src/linux",
    f"lib/modules/{REL}/kernel/b.ko": make_module(),
}
HOME: Members = {
    f"usr/lib/modules/{REL}/vmlinuz": make_bzimage(),
    f"usr/lib/modules/{REL}/config": b"CONFIG_HZ=250\n",
    f"usr/lib/modules/{REL}/modules.builtin": b"kernel/a.ko\n",
}
PACKED: Members = {f"usr/lib/modules/{REL}/kernel/b.ko.zst": zstd(make_module())}
FEDORA: Members = {path.removeprefix("usr/"): content for path, content in HOME.items()}
SUSE_LINKS: Members = {
    f"boot/vmlinuz-{REL}": f"../usr/lib/modules/{REL}/vmlinuz",
    f"boot/config-{REL}": f"../usr/lib/modules/{REL}/config",
}
DEBUG: Members = {f"usr/lib/debug/lib/modules/{REL}/vmlinux": b"ELF"}


@pytest.mark.parametrize(
    ("kind", "packages"),
    [
        ("deb", [{**BOOT, **MODULES}]),  # Debian to 6.18, bindeb-pkg
        ("deb", [{**BOOT, **MODULES}, DEBUG, {"usr/include/linux/a.h": b""}]),
        ("deb", [HOME, PACKED, {"usr/share/doc/x": b""}]),  # Debian from 6.19
        ("deb", [PACKED, HOME]),
        ("deb", [BOOT, MODULES]),  # Ubuntu
        ("rpm", [FEDORA, PACKED]),  # kernel-core, kernel-modules-core
        ("rpm", [{**HOME, **PACKED, **SUSE_LINKS}]),
        ("rpm", [{**SUSE_LINKS, **HOME, **PACKED}]),
        ("rpm", [{**BOOT, **MODULES}]),  # older SUSE, binrpm-pkg
    ],
)
def test_layouts(tmp_path: Path, cache: Path, kind: str, packages: list[Members]) -> None:
    make = make_deb if kind == "deb" else make_rpm
    names = [f"p{number}.{kind}" for number in range(len(packages))]
    for name, members in zip(names, packages, strict=True):
        (tmp_path / name).write_bytes(make(members, name=name))
    spec = f"{kind}:{','.join(str(tmp_path / name) for name in names)}"
    kernel = resolve(spec)
    assert (kernel.spec, kernel.release, kernel.numbers) == (spec, REL, (6, 1, 7))
    assert kernel.boot.read_bytes() == make_elf(notes=PVH)
    assert kernel.sha256 == sha256_of(kernel.vmlinuz)
    assert kernel.config is not None
    assert kernel.config.read_text() == "CONFIG_HZ=250\n"
    plan = plan_modules(kernel, ["a", "b", "c"])
    assert [path.name.partition(".")[0] for path in plan.files] == ["b"]
    assert (plan.builtin, plan.missing) == (("a",), ("c",))
    assert [package.name for package in kernel.packages] == names
    assert kernel.packages[0].sha256 == sha256_of(tmp_path / names[0])
    entry = kernel.vmlinuz.parent
    assert {path.name for path in entry.iterdir()} == {
        *("vmlinuz", "vmlinux", "config", "modules", "meta.json")
    }
    assert {path.name for path in (entry / "modules" / REL).iterdir()} == {
        "kernel",
        "modules.builtin",
    }
    assert litter(cache) == []


def package(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return f"{path.suffix.removeprefix('.')}:{path}"


def test_packages_are_known_by_their_content(tmp_path: Path) -> None:
    first = resolve(package(tmp_path / "a.deb", make_deb({**BOOT, **MODULES})))
    same = resolve(package(tmp_path / "b.deb", (tmp_path / "a.deb").read_bytes()))
    assert same.vmlinuz == first.vmlinuz
    assert same.spec.endswith("b.deb")
    other = make_bzimage(make_elf({".text": b"new"}, PVH))
    changed = {**BOOT, f"boot/vmlinuz-{REL}": other, **MODULES}
    second = resolve(package(tmp_path / "a.deb", make_deb(changed)))
    assert second.vmlinuz != first.vmlinuz
    assert second.sha256 != first.sha256
    assert [kernel.flavour for kernel in cached()] == ["deb", "deb"]
    assert len(prune([f"deb:{tmp_path / 'b.deb'}"])) == 1
    with pytest.raises(KernelNotFound, match="not in the cache"):
        prune([f"deb:{tmp_path / 'b.deb'}"])
    assert len(prune(keep=0)) == 1


def test_a_kernel_may_have_no_modules(tmp_path: Path) -> None:
    assert resolve(package(tmp_path / "a.deb", make_deb(BOOT))).modules is None


ARM = b"MZ" + bytes(1000)
OTHER: Members = {"lib/modules/6.9.9/kernel/b.ko": make_module()}


@pytest.mark.parametrize(
    ("packages", "complaint"),
    [
        ({}, "cannot read the package .*a.deb: No such file"),
        ({"a.deb": b"not an archive at all"}, "a.deb cannot be unpacked: Unrecognized"),
        ({"a.deb": b""}, "a.deb"),
        ({"a.deb": make_ar({"debian-binary": b"2.0\n"})}, "no Debian package: it has no control"),
        ({"a.deb": make_deb({**BOOT, "x": os.urandom(9000)})[:-4000]}, "a.deb cannot be unpacked"),
        ({"a.deb": make_deb(BOOT, arch="arm64")}, "is linux-image-x for arm64"),
        ({"a.deb": make_deb({f"boot/vmlinuz-{REL}": ARM})}, "no bzImage but an EFI program"),
        ({"a.deb": make_deb(MODULES)}, f"no kernel in a.deb: .*they hold modules of {REL}"),
        ({"a.deb": make_deb({"boot/x": b""})}, r"no kernel in a\.deb: neither /boot/vmlinuz"),
        ({"a.deb": make_deb({**BOOT, **OTHER})}, "holds modules of 6.9.9, and the kernel is 6.1.0"),
        ({"a.deb": make_deb(BOOT), "b.deb": make_deb(OTHER)}, "b.deb holds modules of 6.9.9"),
        (
            {"a.deb": make_deb(BOOT), "b.deb": make_deb({"boot/vmlinuz-6.9.9": make_bzimage()})},
            "2 kernels in a.deb, b.deb: 6.1.0-1-cloud-amd64, 6.9.9",
        ),
        (
            {"a.deb": make_deb({"boot/vmlinuz-6.9.9": make_bzimage()})},
            "the kernel of 6.9.9 in a.deb calls itself 6.1.0",
        ),
        ({"a.deb": make_rpm(FEDORA)}, "a.deb cannot be unpacked: Unrecognized"),
        ({"a.rpm": make_deb(BOOT)}, "a.rpm is no RPM package"),
        ({"a.rpm": make_rpm(FEDORA)[:140]}, "a.rpm has a damaged header"),
        ({"a.rpm": make_rpm(FEDORA)[:-40]}, "a.rpm cannot be unpacked: "),
        ({"a.rpm": make_rpm(FEDORA, arch="aarch64")}, "is kernel-core for aarch64"),
        ({"a.rpm": make_rpm(PACKED)}, "no kernel in a.rpm: .*they hold modules"),
        ({"a.rpm": make_rpm({"../../x": b""})}, "no kernel in"),
        (
            {"a.rpm": make_rpm({f"lib/modules/{REL}/kernel": "/", **PACKED})},
            "no kernel in",
        ),
    ],
)
def test_bad_packages(
    tmp_path: Path, cache: Path, packages: dict[str, bytes], complaint: str
) -> None:
    for name, content in packages.items():
        (tmp_path / name).write_bytes(content)
    names = list(packages) or ["a.deb"]
    spec = ",".join(str(tmp_path / name) for name in names)
    with pytest.raises(KernelNotFound, match=complaint) as caught:
        resolve(f"{names[0][-3:]}:{spec}")
    assert caught.value.remedy
    assert cached() == []
    assert litter(cache) == []


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    home = f"lib/modules/{REL}/kernel"
    evil = make_rpm({**FEDORA, home + "/net": str(aside), home + "/net/b.ko": b"evil"})
    with pytest.raises(KernelNotFound, match="outside its root"):
        resolve(package(tmp_path / "a.rpm", evil))
    assert list(aside.iterdir()) == []


# vmlinux


def test_vmlinux(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    tools = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40"
    path.write_bytes(make_vmlinux(f"6.1.0-1 (me@here) ({tools}) #1 SMP Debian 6.1.7-1 (2026)"))
    kernel = resolve(f"path:{path}")
    assert (kernel.boot, kernel.vmlinuz, kernel.modules) == (path, path, None)
    assert kernel.version == "6.1.0-1 (me@here) #1 SMP Debian 6.1.7-1 (2026)"
    assert (kernel.release, kernel.numbers) == ("6.1.0-1", (6, 1, 7))
    assert kernel.sha256 == sha256_of(path)
    assert cached() == [], "there is nothing to unpack"
    (tmp_path / ".config").touch()
    (tmp_path / "include/config").mkdir(parents=True)
    (tmp_path / "include/config/kernel.release").write_text("6.1.0-1\n")
    assert resolve(f"path:{path}").config == tmp_path / ".config"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (make_vmlinux(notes=b""), r"\(6\.1\.0-1\) has no PVH note, so QEMU cannot start it"),
        (make_elf(notes=PVH), "an ELF file, but no kernel"),
        (b"\x7fELF\x02\x01\x01", "a damaged ELF file"),
        (b"\x7fELF", "a damaged ELF file"),
        (make_vmlinux().replace(b"\x02\x00\x3e\x00", b"\x02\x00\xb7\x00"), "a kernel for AArch64"),
    ],
)
def test_no_vmlinux(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    with pytest.raises(KernelNotFound, match=complaint) as caught:
        resolve(f"path:{path}")
    assert caught.value.remedy


def test_vmlinux_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    whole = bytearray(make_vmlinux())
    whole[64 + 32 : 64 + 40] = (10**6).to_bytes(8, "little")  # p_filesz
    path.write_bytes(whole)
    with pytest.raises(KernelNotFound, match="cut off: its segments should end at byte 1000"):
        resolve(f"path:{path}")


def test_kernel_of_32_bits(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    image = bytearray(make_bzimage())
    image[0x236] = 0
    path.write_bytes(image)
    with pytest.raises(KernelNotFound, match="a kernel of 32 bits"):
        resolve(f"path:{path}")


# Installed kernels


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "root"
    monkeypatch.setattr(harness.kernels.installed, "ROOT", root)
    return root


def lay(root: Path, members: Members) -> None:
    for name, content in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(content, bytes)
        (root / name).write_bytes(content)


MODULE: Members = {f"lib/modules/{REL}/kernel/b.ko": make_module()}


@pytest.mark.parametrize("members", [{**BOOT, **MODULE}, {**FEDORA, **MODULE}, {**HOME}])
@pytest.mark.parametrize("spec", [f"installed:{REL}", "installed"])
def test_installed(
    root: Path, monkeypatch: pytest.MonkeyPatch, members: Members, spec: str
) -> None:
    lay(root, members)
    running = os.uname_result(("Linux", "here", REL, "#1", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: running)
    kernel = resolve(spec)
    assert (kernel.spec, kernel.release) == (spec, REL)
    assert kernel.modules is None or kernel.modules.name == REL
    assert (kernel.modules is None) == (members == BOOT)
    assert kernel.config is not None


def test_not_installed(root: Path) -> None:
    with pytest.raises(KernelNotFound, match=r"no kernel 5\.4 is installed") as caught:
        resolve("installed:5.4")
    assert "no kernel at all" in caught.value.remedy
    lay(root, {**BOOT, "boot/vmlinuz-6.10.1": make_bzimage(), "boot/vmlinuz-old": b""})
    with pytest.raises(KernelNotFound, match=r"the running kernel, .* is not installed") as caught:
        resolve("installed")
    assert f"installed are {REL}, 6.10.1: name one, installed:6.10.1" in caught.value.remedy


def test_installed_but_not_readable(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(root, BOOT)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(KernelNotFound, match="by root only") as caught:
        resolve(f"installed:{REL}")
    assert f"path:vmlinuz-{REL},modules={root}/lib/modules/{REL}" in caught.value.remedy


# Source trees

OLD, BUILT, NEW = 1000, 2000, 3000
CMD = "deps_a := \\\n  $(wildcard include/config/BPF) \\\n  {}include/linux/a.h \\\n{} -DKERNEL"


def at(path: Path, when: int, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (when, when))
    return path


def build(sources: Path, where: Path, up: str = "") -> None:
    """Lay out what a build leaves: a bzImage, an object of the kernel, and a module."""
    at(where / "arch/x86/boot/bzImage", BUILT, make_bzimage())
    at(where / ".config", OLD, "CONFIG_HZ=250\n")
    for name in ("auto.conf", "BPF"):
        at(where / "include/config" / name, OLD)
    at(where / "include/config/kernel.release", OLD, f"{REL}\n")
    at(where / "kernel/bpf/cpumap.o", OLD)
    at(where / "kernel/bpf/.cpumap.o.cmd", OLD, CMD.format(up, f"  {up}kernel/bpf/cpumap.c"))
    at(where / "net/b.o", OLD)
    at(where / "net/b.ko", OLD, make_module())
    at(where / "net/.b.o.cmd", OLD, CMD.format(up, f"  {up}net/b.c -DMODULE "))
    at(where / "modules.order", OLD, "net/b.o\nnet/c.o\n")
    at(where / "modules.builtin", OLD, "kernel/net/a.ko\n")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "linux"
    for name in ("Kconfig", "kernel/bpf/cpumap.c", "net/b.c", "net/unbuilt.c"):
        at(tree / name, OLD)
    at(tree / "include/linux/a.h", OLD)
    build(tree, tree)
    return tree


def test_tree(tree: Path) -> None:
    kernel = resolve(f"tree:{tree}")
    assert (kernel.spec, kernel.release) == (f"tree:{tree}", REL)
    assert kernel.vmlinuz == tree / "arch/x86/boot/bzImage"
    assert kernel.config == tree / ".config"
    plan = plan_modules(kernel, ["a", "b", "c"])
    assert (plan.files, plan.builtin, plan.missing) == ((tree / "net/b.ko",), ("a",), ("c",))


def test_newest_build_of_a_tree(tree: Path) -> None:
    build(tree, tree / "out", "../")
    (tree / "out/source").symlink_to("..")
    at(tree / "out/arch/x86/boot/bzImage", NEW, make_bzimage())
    assert resolve(f"tree:{tree}").config == tree / "out/.config"
    at(tree / "include/linux/a.h", NEW + 1)
    for directory in (tree, tree / "out"):
        with pytest.raises(KernelNotFound, match=r"include/linux/a\.h was changed since"):
            resolve(f"tree:{directory}")


@pytest.mark.parametrize(
    "changed",
    [
        *("kernel/bpf/cpumap.c", "include/linux/a.h", "net/b.c", ".config", "include/config/BPF"),
    ],
)
def test_stale_build_is_refused(tree: Path, changed: str) -> None:
    os.utime(tree / changed, (NEW, NEW))
    with pytest.raises(KernelNotFound, match=f"is stale: .*{changed} was changed") as caught:
        resolve(f"tree:{tree}")
    assert f"path:{tree}/arch/x86/boot/bzImage" in caught.value.remedy


@pytest.mark.parametrize(
    "changed",
    ["net/unbuilt.c", "Documentation/x.c", "arch/arm/a.c", "net/b.mod.c", "include/generated/a.h"],
)
def test_what_no_object_was_made_from_makes_nothing_stale(tree: Path, changed: str) -> None:
    at(tree / changed, NEW)
    assert resolve(f"tree:{tree}").release == REL


def test_module_that_was_built_since(tree: Path) -> None:
    os.utime(tree / "net/b.c", (NEW, NEW))
    os.utime(tree / "net/b.o", (NEW + 1, NEW + 1))
    assert resolve(f"tree:{tree}").release == REL


@pytest.mark.parametrize("name", ["kernel/bpf/cpumap", "net/b"])
def test_source_that_did_not_compile(tree: Path, name: str) -> None:
    os.utime(tree / f"{name}.c", (NEW, NEW))
    (tree / f"{name}.o").unlink()
    with pytest.raises(KernelNotFound, match=f"is stale: {name}.c was changed"):
        resolve(f"tree:{tree}")


@pytest.mark.parametrize(
    ("present", "complaint"),
    [
        (None, "there is no directory"),
        ([], "no kernel tree: it has neither"),
        (["Kconfig"], "is not built, nor configured"),
        (["Kconfig", ".config"], "is configured but not built"),
        (["Kconfig", ".config", "vmlinux"], "has a vmlinux but no arch/x86/boot/bzImage"),
    ],
)
def test_no_tree(tmp_path: Path, present: list[str] | None, complaint: str) -> None:
    tree = tmp_path / "tree"
    for name in present or []:
        at(tree / name, OLD)
    if present == []:
        tree.mkdir()
    with pytest.raises(KernelNotFound, match=complaint) as caught:
        resolve(f"tree:{tree}")
    assert caught.value.remedy
