"""Small things in the formats of big ones: packages, kernels, modules, and an apt to serve them."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import libarchive

import harness.apt.mirrors
from harness.patience import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

LATE_S = 300.0
"""So late that only a bug reaches it: a busy machine has been seen to take 60."""


def make_elf(sections: Mapping[str, bytes] | None = None, notes: bytes = b"") -> bytes:
    """A little-endian ELF64 file with the sections named and, if there are notes, their segment."""
    names = ["", *(sections or {}), ".shstrtab"]
    strings = b"\0".join(name.encode() for name in names) + b"\0"
    blobs = [b"", *(sections or {}).values(), strings]
    body = notes
    headers = b""
    at = 64 + 56
    for name, blob in zip(names, blobs, strict=True):
        kind = 3 if name == ".shstrtab" else 1 if name else 0
        offset = strings.index(name.encode() + b"\0") if name else 0
        place = at + len(body)
        headers += struct.pack("<IIQQQQIIQQ", offset, kind, 0, 0, place, len(blob), 0, 0, 1, 0)
        body += blob
    program = struct.pack("<IIQQQQQQ", 4 if notes else 0, 4, at, 0, 0, len(notes), len(notes), 4)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH",
        *(2, 62, 1, 0, 64, at + len(body), 0, 64, 56, 1, 64, len(names), len(names) - 1),
    )
    return header + program + body + headers


def note(owner: str, kind: int) -> bytes:
    """One ELF note."""
    name = owner.encode() + b"\0"
    return (
        struct.pack("<III", len(name), 4, kind)
        + name.ljust(-(-len(name) // 4) * 4, b"\0")
        + bytes(4)
    )


PVH = note("Xen", 18)


def make_vmlinux(
    banner: str = "6.1.0-1 (me@here) (gcc 12) #1 SMP Mon", notes: bytes = PVH
) -> bytes:
    """An ELF kernel, as far as the host looks."""
    text = f"Linux version 6.1.0-1 (me@here) # SMP\n\0Linux version {banner}\n\0"
    return make_elf({".rodata": text.encode()}, notes)


def make_module(depends: str = "", vermagic: str = "6.1.0-1-cloud-amd64 SMP modversions ") -> bytes:
    """A kernel module, as far as the host looks."""
    return make_elf({".modinfo": f"license=GPL\0depends={depends}\0vermagic={vermagic}\0".encode()})


def zstd(data: bytes) -> bytes:
    """One zstd frame of one raw block (at most 64 kB)."""
    block = struct.pack("<I", len(data) << 3 | 1)[:3]
    return b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", len(data) - 256) + block + data


def lz4_legacy(data: bytes) -> bytes:
    """The lz4 format that kernels are packed in: one block of literals."""
    extra, last = divmod(len(data) - 15, 255)
    block = b"\xf0" + b"\xff" * extra + bytes([last]) + data
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": zstd,
    "lz4": lz4_legacy,
}


def make_bzimage(
    elf: bytes | None = None,
    *,
    banner: str = "6.1.0-1-cloud-amd64 (builder) #1 SMP Debian 6.1.7-1 (2026-01-01)",
    packer: str = "gzip",
) -> bytes:
    """A bzImage, as far as its header goes."""
    elf = make_elf(notes=PVH) if elf is None else elf
    payload = PACKERS[packer](elf)
    if packer != "gzip":
        payload += struct.pack("<I", len(elf))
    setup = bytearray(2 * 512)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    struct.pack_into("<H", setup, 0x20E, 0x280 - 0x200)
    setup[0x236] = 1  # 64 bits
    struct.pack_into("<II", setup, 0x248, 32, len(payload))
    setup[0x280 : 0x280 + len(banner) + 1] = banner.encode() + b"\0"
    return bytes(setup) + bytes(32) + payload + bytes(16)


def make_tar(members: Mapping[str, bytes | str]) -> bytes:
    """A tar; a member that is a string is a symbolic link, or a hard one after "="."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:") as tar:
        for path, content in members.items():
            entry = tarfile.TarInfo(f"./{path}")
            entry.mode = 0o755 if "bin/" in path else 0o644
            if isinstance(content, str):
                entry.type = tarfile.LNKTYPE if content.startswith("=") else tarfile.SYMTYPE
                entry.linkname = content.removeprefix("=")
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def make_ar(members: Mapping[str, bytes]) -> bytes:
    """An ar archive."""
    packed = io.BytesIO()
    with libarchive.custom_writer(packed.write, "ar_svr4") as writer:
        for path, content in members.items():
            writer.add_file_from_memory(path, len(content), content)
    return packed.getvalue()


def make_deb(
    members: Mapping[str, bytes | str],
    *,
    name: str = "linux-image-x",
    version: str = "6.1.7-1",
    arch: str = "amd64",
) -> bytes:
    """A Debian package of these files."""
    control = f"Package: {name}\nVersion: {version}\nArchitecture: {arch}\n".encode()
    return make_ar(
        {
            "debian-binary": b"2.0\n",
            "control.tar.xz": lzma.compress(make_tar({"control": control})),
            "data.tar.xz": lzma.compress(make_tar(members)),
        }
    )


_APT_GET = """\
#!/bin/sh
echo "apt-get $*" >> "$FAKE/log"
case " $* " in
*" indextargets "*) cat "$FAKE/targets" ;;
*" update "*)
    cat "$FAKE/update.out"
    cat "$FAKE/update.err" >&2
    exit "$(cat "$FAKE/update.code")" ;;
*" --simulate "*) cat "$FAKE/plan" ;;
*" download "*)
    fd=$(echo " $* " | sed -n 's/.*APT::Status-Fd=\\([0-9]*\\).*/\\1/p')
    echo dlstatus:1:50.0:half way > "/proc/self/fd/$fd"
    . "$FAKE/download"
    for word; do
        cp "$FAKE/pool/$(echo "$word" | sed 's/=/_/; s/:/%3a/')"_* . 2> "$FAKE/err" || true
    done ;;
esac
"""

_APT_CACHE = """\
#!/bin/sh
echo "apt-cache $*" >> "$FAKE/log"
case " $* " in
*" search "*) cat "$FAKE/search" ;;
*" madison "*) for name; do cat "$FAKE/madison.d/$name"; done ;;
*" show "*) for name; do cat "$FAKE/show.d/$name"; done ;;
esac 2> "$FAKE/err"
true
"""

TARGETS = """\
Packages|mirror:/debian/|bookworm|main|Debian
Packages|mirror:/security/|bookworm-security|main|Debian
Packages bookworm
Packages bookworm-backports
Packages bookworm-security
Packages trixie-backports
"""


def make_rpm(
    members: Mapping[str, bytes | str],
    *,
    name: str = "kernel-core",
    version: str = "6.1.7",
    arch: str = "x86_64",
) -> bytes:
    """An RPM package; a member that is a string is a symbolic link."""
    payload = b""
    files = {f"./{path}": content for path, content in members.items()}
    for path, content in {**files, "TRAILER!!!": b""}.items():
        body, kind = (
            (content.encode(), 0o120777) if isinstance(content, str) else (content, 0o100644)
        )
        sizes = (0, kind, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(path) + 1, 0)
        head = b"070701" + "".join(f"{size:08x}" for size in sizes).encode() + path.encode()
        for part in (head + b"\0", body):
            payload += part.ljust(-(-len(part) // 4) * 4, b"\0")
    told = {1000: name, 1001: version, 1002: "300.fc44", 1022: arch}
    lead = b"\xed\xab\xee\xdb\x03\x00\x00\x00\x00\x01" + bytes(66) + b"\x00\x01\x00\x05"
    signature = _rpm_header({1000: "-------"})  # as long as its padding wants
    return lead.ljust(96, b"\0") + signature + _rpm_header(told) + gzip.compress(payload)


def _rpm_header(strings: Mapping[int, str]) -> bytes:
    store = b""
    index = b""
    for tag, text in strings.items():
        index += struct.pack(">IIII", tag, 6, len(store), 1)
        store += text.encode() + b"\0"
    sizes = struct.pack(">II", len(strings), len(store))
    return b"\x8e\xad\xe8\x01" + bytes(4) + sizes + index + store


@dataclass
class FakeApt:
    """An apt-get and an apt-cache that say and do what a test wants.

    Attributes:
        root: where their answers are: `update.err`, `plan`, and so on.
    """

    root: Path

    @classmethod
    def serve(cls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Make one, and a cache and a keyring of its own, and put it first on PATH."""
        monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
        keyring = tmp_path / "keyring.gpg"
        keyring.touch()
        monkeypatch.setattr(harness.apt.mirrors, "KEYRINGS", (tmp_path / "none.gpg", keyring))
        fake = cls(tmp_path / "fake")
        fake.install(monkeypatch)
        return fake

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put them first on PATH."""
        (self.root / "bin").mkdir(parents=True)
        for name in ("pool", "show.d", "madison.d"):
            (self.root / name).mkdir()
        for name, script in (("apt-get", _APT_GET), ("apt-cache", _APT_CACHE)):
            (self.root / "bin" / name).write_text(script)
            (self.root / "bin" / name).chmod(0o755)
        self.answer("targets", TARGETS)
        self.answer("update.out", "Get:1 mirror:/debian bookworm InRelease [1 kB]\n")
        self.answer("update.code", "0\n")
        for name in ("update.err", "plan", "search", "log", "download"):
            self.answer(name, "")
        monkeypatch.setenv("FAKE", str(self.root))
        monkeypatch.setenv("PATH", f"{self.root / 'bin'}:{os.environ['PATH']}")

    def answer(self, name: str, text: str) -> None:
        """Set one of the answers."""
        (self.root / name).write_text(text)

    def add(
        self,
        name: str,
        version: str,
        suite: str,
        members: Mapping[str, bytes | str] | None = None,
        *,
        depends: str = "",
    ) -> None:
        """Put a package into the archive."""
        deb = make_deb(members or {"usr/share/doc/x": b""})
        quoted = version.replace(":", "%3a")
        (self.root / "pool" / f"{name}_{quoted}_amd64.deb").write_bytes(deb)
        digest = hashlib.sha256(deb).hexdigest()
        stanza = f"Package: {name}\nVersion: {version}\nSize: {len(deb)}\nSHA256: {digest}\n"
        self.add_to(f"show.d/{name}", stanza + (f"Depends: {depends}\n" if depends else "") + "\n")
        self.add_to("search", f"{name} - a package\n")
        self.add_to(
            f"madison.d/{name}",
            f" {name} | {version} | mirror:/debian {suite}/main amd64 Packages\n",
        )

    def add_to(self, name: str, text: str) -> None:
        """Add to one of the answers."""
        with (self.root / name).open("a") as file:
            file.write(text)

    @property
    def log(self) -> list[str]:
        """The commands that ran."""
        return (self.root / "log").read_text().splitlines()


def ends(pid: int) -> bool:
    """Whether a process ends, collected by its parent or not: a killed one is seen for a moment."""
    stat = Path(f"/proc/{pid}/stat")

    def gone() -> bool:
        try:
            return stat.read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    return wait_until(gone, LATE_S)
