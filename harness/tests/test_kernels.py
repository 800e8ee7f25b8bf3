from __future__ import annotations

import json
import lzma
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import harness.apt.mirrors
from harness.apt import Package
from harness.errors import CacheError, FetchFailed, KernelNotFound, UserError
from harness.kernels import KernelImage, cached, plan_modules, prune, read_module, resolve
from harness.kernels.bzimage import extract_elf, read_bzimage
from harness.kernels.cli import kernels as commands
from harness.kernels.debian import builds_of, choose
from harness.kernels.image import kernel_numbers
from harness.kernels.spec import (
    BuildSpec,
    DebianSpec,
    InstalledSpec,
    KernelSpec,
    PackageSpec,
    PathSpec,
    TreeSpec,
    parse_spec,
)
from harness.kernels.vmlinux import has_pvh_entry
from harness.landing import sha256_of
from harness.tests.fakes import (
    PACKERS,
    PVH,
    FakeApt,
    make_bzimage,
    make_elf,
    make_module,
    note,
)

# Specs


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("debian:6.1", DebianSpec("6.1", "cloud")),
        (" debian:6.1\n", DebianSpec("6.1", "cloud")),
        ("debian:7.3-rt", DebianSpec("7.3", "rt")),
        ("debian:6.12.43-amd64", DebianSpec("6.12.43", "amd64")),
        ("debian:7.3-rc7-rt", DebianSpec("7.3-rc7", "rt")),
        (
            "debian:6.1.0-56-cloud-amd64",
            DebianSpec("", "cloud", "6.1.0-56-cloud-amd64"),
        ),
        ("debian:6.12.90+deb12.1-amd64", DebianSpec("", "amd64", "6.12.90+deb12.1-amd64")),
        ("path:/x/bzImage", PathSpec(Path("/x/bzImage"))),
        ("path:b,modules=/m", PathSpec(Path("b"), Path("/m"))),
        ("deb:/a.deb,b.deb", PackageSpec("deb", (Path("/a.deb"), Path("b.deb")))),
        ("rpm:/a.rpm", PackageSpec("rpm", (Path("/a.rpm"),))),
        ("installed", InstalledSpec("")),
        ("installed:6.8.0-48-generic", InstalledSpec("6.8.0-48-generic")),
        ("tree:/usr/src/linux", TreeSpec(Path("/usr/src/linux"))),
        ("build:linux", BuildSpec(Path("linux"))),
        ("build:/a@b/linux@v6.1~3", BuildSpec(Path("/a@b/linux"), "v6.1~3")),
        ("build:linux@net/main", BuildSpec(Path("linux"), "net/main")),
    ],
)
def test_spec(text: str, spec: KernelSpec) -> None:
    assert parse_spec(text) == spec
    assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    "text",
    [
        *("", "6.1", "debian:", "debian:six", "debian:6", "debian:6.1-cloudy", "debian:../x"),
        *("path:", "path:b,modules=", "path:b,modules=c,modules=d", "fedora:40"),
        *("deb:", "rpm:a.rpm,", "installed:", "installed:../x", "tree:", "tree"),
        *("build:", "build:@HEAD", "build:linux@", "build:linux@--help"),
    ],
)
def test_bad_spec(text: str) -> None:
    with pytest.raises(KernelNotFound, match="no kernel spec") as caught:
        parse_spec(text)
    assert isinstance(caught.value, UserError)
    assert "debian:6.1" in caught.value.remedy


def test_home_is_expanded() -> None:
    spec = parse_spec("path:~/bzImage,modules=~/m")
    assert spec == PathSpec(Path.home() / "bzImage", Path.home() / "m")


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("6.1.192-2", (6, 1, 192)),
        ("7.3~rc7-1~exp1", (7, 3, 0)),
        ("6.1.0-56-cloud-amd64 (x) #1 SMP Debian 6.1.192-2 (2026-11-16)", (6, 1, 192)),
        ("6.8.0-48-generic (x) #48-Ubuntu SMP", (6, 8, 0)),
        ("7.4.0-rc1+ (me@here) #1", (7, 4, 0)),
    ],
)
def test_numbers(version: str, numbers: tuple[int, int, int]) -> None:
    assert kernel_numbers(version) == numbers


def test_no_numbers() -> None:
    with pytest.raises(ValueError, match="no kernel version"):
        kernel_numbers("mainline")


# Builds


def package(name: str, version: str, depends: str = "", suite: str = "sid") -> Package:
    return Package(name, version, (suite,), "0" * 64, 10, depends)


MONOLITH = "6.1.0-56-cloud-amd64"
SPLIT = "7.3.4+deb13-cloud-amd64"
ALL = [
    package("linux-image-6.1.0-9-cloud-amd64-unsigned", "6.1.90-1"),
    package(f"linux-image-{MONOLITH}", "6.1.192-2"),
    package(f"linux-image-{MONOLITH}-unsigned", "6.1.192-2"),
    package("linux-image-6.1-cloud-amd64", "6.1.999-1", f"linux-image-{MONOLITH} (= 6.1.192-2)"),
    package("linux-image-6.1.0-56-rt-amd64", "6.1.192-2"),
    package("linux-image-7.3-cloud-amd64", "7.3~rc7-1~exp1", "linux-binary-7.3-cloud-amd64"),
    package("linux-binary-7.3-cloud-amd64", "7.3~rc7-1~exp1"),
    package("linux-modules-7.3-cloud-amd64", "7.3~rc7-1~exp1"),
    package("linux-base-7.3-cloud-amd64", "7.3~rc7-1~exp1"),
    package(f"linux-image-{SPLIT}", "7.3.4-1~bpo13+1", f"linux-binary-{SPLIT}"),
    package(f"linux-binary-{SPLIT}", "7.3.4-1~bpo13+1"),
    package(f"linux-modules-{SPLIT}", "7.3.4-1~bpo13+1"),
    package(f"linux-base-{SPLIT}", "7.3.4-1~bpo13+1"),
    package("linux-binary-7.1.2-cloud-amd64", "7.1.2-1"),
    package("linux-image-7.1.2-cloud-amd64", "7.1.2-1", "linux-binary-7.1.2-cloud-amd64"),
    package("linux-image-6.1.0-56-cloud-amd64-dbg", "6.1.192-2"),
]


def test_builds() -> None:
    builds = builds_of(reversed(ALL))
    assert [(build.version, build.flavour, build.complete) for build in builds] == [
        ("6.1.90-1", "cloud", True),
        ("6.1.192-2", "rt", True),
        ("6.1.192-2", "cloud", True),
        ("7.1.2-1", "cloud", False),
        ("7.3~rc7-1~exp1", "cloud", True),
        ("7.3.4-1~bpo13+1", "cloud", True),
    ]
    names = {build.release: [part.name for part in build.packages] for build in builds}
    assert names[MONOLITH] == [f"linux-image-{MONOLITH}"]
    assert names["6.1.0-9-cloud-amd64"] == ["linux-image-6.1.0-9-cloud-amd64-unsigned"]
    assert names[SPLIT] == [f"linux-{part}-{SPLIT}" for part in ("binary", "modules", "base")]


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        ("debian:6.1", "6.1.192-2"),
        ("debian:6.1.90", "6.1.90-1"),
        ("debian:6.1-rt", "6.1.192-2"),
        ("debian:7.3", "7.3.4-1~bpo13+1"),
        ("debian:7.3-rc7", "7.3~rc7-1~exp1"),
        ("debian:7.3-cloud-amd64", "7.3~rc7-1~exp1"),
        ("debian:6.1.0-9-cloud-amd64", "6.1.90-1"),
    ],
)
def test_choice(spec: str, version: str) -> None:
    parsed = parse_spec(spec)
    assert isinstance(parsed, DebianSpec)
    assert choose(parsed, builds_of(ALL)).version == version


@pytest.mark.parametrize(
    ("spec", "message", "remedy"),
    [
        (
            "debian:6.1.100",
            "has no kernel for debian:6.1.100",
            "debian has 6.1.90 … 6.1.192; nearest: debian:6.1.90",
        ),
        ("debian:6.12", "has no kernel", "debian has 6.1, 7.3; nearest: debian:6.1"),
        ("debian:7.1", "no longer its modules", "nearest: debian:7.3"),
        ("debian:6.1.7-rt", "has no kernel", "debian has 6.1.192; nearest: debian:6.1.192-rt"),
        ("debian:6.1-amd64", "has no kernel", "there is no amd64 kernel at all"),
        ("debian:6.1.0-1-cloud-amd64", "has no kernel", "debian has 6.1.90 … 6.1.192"),
    ],
)
def test_choice_of_nothing(spec: str, message: str, remedy: str) -> None:
    parsed = parse_spec(spec)
    assert isinstance(parsed, DebianSpec)
    with pytest.raises(KernelNotFound, match=message) as caught:
        choose(parsed, builds_of(ALL))
    assert remedy in caught.value.remedy


# bzImages


@pytest.fixture
def bzimage(tmp_path: Path) -> Path:
    path = tmp_path / "bzImage"
    path.write_bytes(make_bzimage())
    return path


@pytest.mark.parametrize("packer", PACKERS)
def test_payload(tmp_path: Path, packer: str) -> None:
    elf = make_elf({".text": bytes(range(256))}, PVH)
    path = tmp_path / "bzImage"
    path.write_bytes(make_bzimage(elf, packer=packer))
    image = read_bzimage(path)
    assert image.release == "6.1.0-1-cloud-amd64"
    assert image.sha256 == sha256_of(path)
    assert extract_elf(image) == elf


def test_payload_of_another_size_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    data = bytearray(make_bzimage(packer="xz"))
    data[-17] ^= 1  # in the size that follows the payload
    path.write_bytes(data)
    assert extract_elf(read_bzimage(path)) is None


def test_header_without_a_payload(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    data = bytearray(make_bzimage())
    data[0x206:0x208] = b"\x07\x02"  # boot protocol 2.07
    path.write_bytes(data)
    assert extract_elf(read_bzimage(path)) is None


def test_damaged_payload(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    data = bytearray(make_bzimage(packer="xz"))
    data[2 * 512 + 32 + 20 : 2 * 512 + 32 + 40] = bytes(20)
    path.write_bytes(data)
    assert extract_elf(read_bzimage(path)) is None


def test_unknown_packing(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    data = make_bzimage()
    path.write_bytes(data.replace(b"\x1f\x8b\x08", b"LZ?"))
    assert extract_elf(read_bzimage(path)) is None


@pytest.mark.parametrize(
    ("elf", "has"),
    [
        (make_elf(notes=note("Linux", 257) + PVH), True),
        (make_elf(notes=note("Xen", 17) + note("GNU", 18)), False),
        (make_elf(), False),
        (b"\x7fELF", False),
    ],
)
def test_pvh_note(tmp_path: Path, elf: bytes, has: bool) -> None:
    (tmp_path / "vmlinux").write_bytes(elf)
    assert has_pvh_entry(tmp_path / "vmlinux") is has


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (make_elf(), "an ELF file"),
        (b"\x1f\x8b" + bytes(600), "gzip"),
        (b"!<arch>\n" + bytes(600), "an ar archive"),
        (b"#!/bin/sh\n", "a script"),
        (bytes(1024), "1024 bytes that begin with 00 00"),
        (make_bzimage(banner="hello"), "no version string"),
        (make_bzimage()[:-40], "cut off"),
    ],
)
def test_no_kernel(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(KernelNotFound, match=found) as caught:
        read_bzimage(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy


# Resolving


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "keyring.gpg").touch()
    monkeypatch.setattr(harness.apt.mirrors, "KEYRINGS", (tmp_path / "keyring.gpg",))
    fake = FakeApt(tmp_path / "fake")
    fake.install(monkeypatch)
    return fake


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


# Modules


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
