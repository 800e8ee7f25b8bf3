"""Kernels resolved, cached and pruned."""

from __future__ import annotations

import json
import lzma
import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import harness.apt.mirrors
from harness.errors import CacheError, FetchFailed, KernelNotFound
from harness.kernels import cached, plan_modules, prune, resolve
from harness.kernels.cli import kernels as commands
from harness.landing import sha256_of
from harness.tests.fakes import (
    PVH,
    FakeApt,
    make_bzimage,
    make_elf,
    make_module,
)

if TYPE_CHECKING:
    from pathlib import Path

MONOLITH = "6.1.0-56-cloud-amd64"
SPLIT = "7.3.4+deb13-cloud-amd64"


@pytest.fixture
def bzimage(tmp_path: Path) -> Path:
    path = tmp_path / "bzImage"
    path.write_bytes(make_bzimage())
    return path


# Resolving


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    return FakeApt.serve(tmp_path, monkeypatch)


def add_monolith(apt: FakeApt, release: str, version: str) -> None:
    apt.add(
        f"linux-image-{release}",
        version,
        "bookworm",
        {
            f"boot/vmlinuz-{release}": make_bzimage(banner=f"{release} (x) Debian {version}"),
            f"boot/config-{release}": b"CONFIG_BPF=y\n",
            f"boot/System.map-{release}": b"",
            f"lib/modules/{release}/modules.builtin": b"kernel/a.ko\n",
            f"lib/modules/{release}/kernel/b.ko": make_module(),
            "usr/share/doc/x": b"",
        },
    )


def add_split(apt: FakeApt, release: str, version: str) -> None:
    home = f"usr/lib/modules/{release}"
    apt.add(f"linux-image-{release}", version, "sid", depends=f"linux-binary-{release}")
    elf = make_elf()
    image = make_bzimage(elf, banner=f"{release} (x) Debian {version}", packer="zstd")
    apt.add(f"linux-binary-{release}", version, "sid", {f"{home}/vmlinuz": image})
    apt.add(
        f"linux-modules-{release}",
        version,
        "sid",
        {f"{home}/kernel/b.ko.xz": lzma.compress(make_module())},
    )
    apt.add(
        f"linux-base-{release}",
        version,
        "sid",
        {f"{home}/config": b"CONFIG_BPF=y\n", f"{home}/modules.builtin": b""},
    )


def test_resolve_monolith(apt: FakeApt) -> None:
    add_monolith(apt, MONOLITH, "6.1.192-2")
    kernel = resolve("debian:6.1")
    assert (kernel.spec, kernel.release, kernel.version) == ("debian:6.1", MONOLITH, "6.1.192-2")
    assert kernel.numbers == (6, 1, 192)
    assert kernel.boot.name == "vmlinux"
    assert kernel.boot.read_bytes() == make_elf(notes=PVH)
    assert kernel.sha256 == sha256_of(kernel.vmlinuz)
    assert kernel.modules is not None
    assert kernel.modules.name == MONOLITH
    assert (kernel.modules / "kernel/b.ko").exists()
    assert kernel.config is not None
    assert kernel.config.read_text() == "CONFIG_BPF=y\n"
    directory = kernel.vmlinuz.parent
    names = {path.name for path in directory.iterdir()}
    assert names == {"vmlinuz", "vmlinux", "config", "modules", "meta.json"}
    meta = json.loads((directory / "meta.json").read_text())
    assert meta["packages"][0]["name"] == f"linux-image-{MONOLITH}"
    assert len(meta["packages"][0]["sha256"]) == 64


def test_resolve_split_without_pvh(apt: FakeApt) -> None:
    add_split(apt, SPLIT, "7.3.4-1~bpo13+1")
    kernel = resolve("debian:7.3")
    assert kernel.boot == kernel.vmlinuz
    assert not (kernel.vmlinuz.parent / "vmlinux").exists()
    assert kernel.config is not None
    assert plan_modules(kernel, ["b"]).missing == ()


def test_second_resolve_does_not_ask_apt(apt: FakeApt) -> None:
    add_monolith(apt, MONOLITH, "6.1.192-2")
    first = resolve("debian:6.1")
    ran = len(apt.log)
    assert resolve("debian:6.1") == first
    assert len(apt.log) == ran


def test_what_was_fetched_is_known_by_its_release(apt: FakeApt) -> None:
    add_monolith(apt, MONOLITH, "6.1.192-2")
    first = resolve("debian:6.1")
    ran = len(apt.log)
    second = resolve(f"debian:{MONOLITH}")
    assert second.vmlinuz == first.vmlinuz
    assert second.spec == f"debian:{MONOLITH}"
    assert len(apt.log) == ran


def test_release_that_reads_as_a_series(apt: FakeApt) -> None:
    add_split(apt, "7.3-amd64", "7.3~rc7-1~exp1")
    add_split(apt, "7.3.4+deb13-amd64", "7.3.4-1")
    assert resolve("debian:7.3-rc7-amd64").release == "7.3-amd64"
    assert resolve("debian:7.3-amd64").release == "7.3.4+deb13-amd64"


def test_suites_that_are_not_there_are_named(apt: FakeApt) -> None:
    apt.answer("update.code", "100\n")
    apt.answer("update.err", "E: The repository 'x sid Release' does not have a Release file.\n")
    with pytest.raises(KernelNotFound, match="sid: the mirror does not carry it"):
        resolve("debian:6.1")


def test_refresh_finds_the_newer_build(apt: FakeApt) -> None:
    add_monolith(apt, MONOLITH, "6.1.192-2")
    resolve("debian:6.1")
    add_monolith(apt, "6.1.0-57-cloud-amd64", "6.1.195-1")
    assert resolve("debian:6.1").version == "6.1.192-2"
    assert resolve("debian:6.1", refresh=True).version == "6.1.195-1"
    assert resolve("debian:6.1").version == "6.1.195-1", "it is remembered"


def test_miss_brings_newer_indices_once(apt: FakeApt) -> None:
    with pytest.raises(KernelNotFound):
        resolve("debian:6.1")
    updates = [line for line in apt.log if " update" in line]
    assert len(updates) == 1, "the indices had just come"
    stamp = harness.apt.Archive().root / "refreshed.json"
    os.utime(stamp, (stamp.stat().st_mtime - 3600,) * 2)
    with pytest.raises(KernelNotFound):
        resolve("debian:6.1")
    assert len([line for line in apt.log if " update" in line]) == 2


def test_failed_fetch_leaves_nothing(apt: FakeApt, tmp_path: Path) -> None:
    add_monolith(apt, MONOLITH, "6.1.192-2")
    apt.answer("download", "exit 100\n")
    with pytest.raises(FetchFailed):
        resolve("debian:6.1")
    assert cached() == []
    apt.answer("download", "")
    # What a killed builder leaves.
    part = tmp_path / "cache/kernels" / f".{MONOLITH}_6.1.192-2.part"
    part.mkdir()
    (part / "vmlinuz").write_bytes(b"half")
    assert resolve("debian:6.1").vmlinuz.stat().st_size > 4
    assert not part.exists()


def test_packages_without_a_kernel(apt: FakeApt) -> None:
    apt.add(f"linux-image-{MONOLITH}", "6.1.192-2", "bookworm", {"usr/share/x": b""})
    with pytest.raises(FetchFailed, match="no kernel in"):
        resolve("debian:6.1")
    assert cached() == []


def test_full_disk(apt: FakeApt) -> None:
    add_monolith(apt, MONOLITH, "6.1.192-2")
    apt.answer("download", "echo 'E: Write error - (28: No space left on device)' >&2; exit 100\n")
    with pytest.raises(CacheError, match="filled the disk"):
        resolve("debian:6.1")


def test_damaged_mapping_is_mended(apt: FakeApt, tmp_path: Path) -> None:
    add_monolith(apt, MONOLITH, "6.1.192-2")
    resolve("debian:6.1")
    (tmp_path / "cache/kernels/specs/debian:6.1").write_text("")
    assert resolve("debian:6.1").release == MONOLITH


# A kernel of one's own


def test_path(apt: FakeApt, bzimage: Path) -> None:
    kernel = resolve(f"path:{bzimage}")
    assert kernel.vmlinuz == bzimage
    assert kernel.boot.read_bytes() == make_elf(notes=PVH)
    assert kernel.sha256 in str(kernel.boot)
    assert (kernel.modules, kernel.config) == (None, None)
    assert kernel.release == "6.1.0-1-cloud-amd64"
    assert kernel.numbers == (6, 1, 7)
    assert apt.log == []


def test_relative_path(apt: FakeApt, bzimage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bzimage.parent)
    assert resolve("path:bzImage") == resolve(f"path:{bzimage}")


def test_path_without_pvh_boots_the_bzimage(apt: FakeApt, bzimage: Path) -> None:
    bzimage.write_bytes(make_bzimage(make_elf()))
    assert resolve(f"path:{bzimage}").boot == bzimage


def test_rebuilt_bzimage_is_another_kernel(apt: FakeApt, bzimage: Path) -> None:
    first = resolve(f"path:{bzimage}")
    bzimage.write_bytes(make_bzimage(make_elf({".text": b"new"}, PVH)))
    second = resolve(f"path:{bzimage}")
    assert first.boot != second.boot
    assert first.sha256 != second.sha256


@pytest.mark.parametrize("below", ["", "6.1.0-1-cloud-amd64", "lib/modules/6.1.0-1-cloud-amd64"])
@pytest.mark.parametrize("mark", ["modules.dep", "modules.builtin", "kernel/x"])
def test_path_modules(apt: FakeApt, bzimage: Path, tmp_path: Path, below: str, mark: str) -> None:
    directory = tmp_path / "root" / below
    (directory / mark).parent.mkdir(parents=True)
    (directory / mark).touch()
    assert resolve(f"path:{bzimage},modules={tmp_path / 'root'}").modules == directory


def test_path_with_other_modules(apt: FakeApt, bzimage: Path, tmp_path: Path) -> None:
    with pytest.raises(KernelNotFound, match=r"no modules of 6\.1\.0-1-cloud-amd64"):
        resolve(f"path:{bzimage},modules={tmp_path}")


def test_path_to_nothing(apt: FakeApt, tmp_path: Path) -> None:
    with pytest.raises(KernelNotFound, match="No such file"):
        resolve(f"path:{tmp_path / 'none'}")
    with pytest.raises(KernelNotFound, match="Is a directory"):
        resolve(f"path:{tmp_path}")


@pytest.mark.parametrize(
    ("image", "config"),
    [
        ("boot/vmlinuz", "boot/config-6.1.0-1-cloud-amd64"),
        ("6.1.0-1-cloud-amd64/vmlinuz", "6.1.0-1-cloud-amd64/config"),
        ("linux/arch/x86/boot/bzImage", "linux/.config"),
    ],
)
def test_path_config(apt: FakeApt, tmp_path: Path, image: str, config: str) -> None:
    bzimage = tmp_path / image
    bzimage.parent.mkdir(parents=True)
    bzimage.write_bytes(make_bzimage())
    assert resolve(f"path:{bzimage}").config is None
    (tmp_path / config).touch()
    (tmp_path / "linux/include/config").mkdir(parents=True)
    (tmp_path / "linux/include/config/kernel.release").write_text("6.1.0-1-cloud-amd64\n")
    assert resolve(f"path:{bzimage}").config == tmp_path / config


def test_config_of_a_later_build_is_not_taken(apt: FakeApt, tmp_path: Path) -> None:
    bzimage = tmp_path / "linux/arch/x86/boot/bzImage"
    bzimage.parent.mkdir(parents=True)
    bzimage.write_bytes(make_bzimage())
    (tmp_path / "linux/.config").touch()
    (tmp_path / "linux/include/config").mkdir(parents=True)
    (tmp_path / "linux/include/config/kernel.release").write_text("6.2.0\n")
    assert resolve(f"path:{bzimage}").config is None


# Pruning and the commands


@pytest.fixture
def full(apt: FakeApt, bzimage: Path) -> FakeApt:
    add_monolith(apt, "6.1.0-55-cloud-amd64", "6.1.190-1")
    add_monolith(apt, MONOLITH, "6.1.192-2")
    add_monolith(apt, "6.1.0-55-rt-amd64", "6.1.190-1")
    add_split(apt, SPLIT, "7.3.4-1~bpo13+1")
    for spec in ("6.1", "6.1.190", "6.1-rt", "7.3"):
        resolve(f"debian:{spec}")
    resolve(f"path:{bzimage}")
    return apt


def releases() -> list[str]:
    return [kernel.release for kernel in cached() if kernel.flavour != "path"]


def test_prune_keeps_the_newest_of_each_series(full: FakeApt) -> None:
    assert [kernel.version for kernel in prune()] == ["6.1.190-1"]
    assert releases() == ["6.1.0-55-rt-amd64", MONOLITH, SPLIT]
    assert len(cached()) == 4
    assert resolve("debian:6.1.190").version == "6.1.190-1", "fetched again"


def test_prune_all(full: FakeApt, tmp_path: Path) -> None:
    (tmp_path / "cache/kernels/.dead.part").mkdir()
    assert len(prune(keep=0)) == 5
    assert cached() == []
    assert not list((tmp_path / "cache/kernels").glob(".*.part"))


def test_prune_named(full: FakeApt, bzimage: Path) -> None:
    assert len(prune(["debian:6.1"])) == 2
    assert releases() == ["6.1.0-55-rt-amd64", SPLIT]
    assert [kernel.flavour for kernel in prune([f"path:{bzimage}"])] == ["path"]
    with pytest.raises(KernelNotFound, match="not in the cache"):
        prune(["debian:6.1"])


def run(*arguments: str) -> str:
    return CliRunner().invoke(commands, arguments, catch_exceptions=False).output


def test_list(full: FakeApt, bzimage: Path) -> None:
    full.add("linux-binary-7.1.2-cloud-amd64", "7.1.2-1", "sid")
    report = json.loads(CliRunner().invoke(commands, ["list", "--json"]).stdout)
    rows = {row["spec"]: row for row in report["kernels"]}
    assert set(rows) == {
        *(f"path:{bzimage}", "debian:6.1.190", "debian:6.1", "debian:6.1-rt", "debian:7.3")
    }
    assert rows["debian:6.1"]["version"] == "6.1.192-2"
    assert rows["debian:6.1"]["suites"] == ["bookworm"]
    assert rows["debian:6.1"]["cached"].endswith(f"{MONOLITH}_6.1.192-2")
    assert report["notes"][-1] == "the archive has dropped the modules of 7.1"
    assert "debian:7.1.2-cloud-amd64" in run("list", "--all")


def test_list_without_a_mirror(full: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = harness.apt.Archive().root / "refreshed.json"
    stamp.unlink()
    monkeypatch.setenv("PATH", "/nonexistent")
    output = run("list")
    assert f"debian:{MONOLITH}" in output
    assert "only what is in the cache" in output


def test_fetch_and_prune_commands(apt: FakeApt) -> None:
    add_monolith(apt, MONOLITH, "6.1.192-2")
    output = run("fetch", "debian:6.1")
    assert f"fetching {MONOLITH}" in output
    assert f"debian:6.1\t{MONOLITH}\t6.1.192-2\t" in output
    assert "1 kernels" in run("prune", "--all")
    assert "not several" in run("prune", "--all", "debian:6.1")
