"""What somebody with a gdb is told of a guest's kernel."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import GuestError, UserError
from harness.shell import gdb
from harness.tests.fakes import make_elf

if TYPE_CHECKING:
    from pathlib import Path

BASE = 0xFFFFFFFF81000000
MOVED = 0xFFFFFFFF9A000000
KALLSYMS = f"""\
0000000000000000 D __per_cpu_start
{MOVED:016x} T _text
{MOVED + 16:016x} t bq_flush_to_queue
{MOVED:016x} t x\t[veth]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Link:
    """An agent's, of a guest with KASLR."""

    def call(self, *_: object) -> bytes:
        return KALLSYMS.encode()


class NoList:
    """An agent's, of a guest without CONFIG_KALLSYMS."""

    def call(self, *_: object) -> bytes:
        raise GuestError("no such file", errno=2)


def vmlinux() -> bytes:
    """An ELF with debug information that is linked for BASE."""
    elf = bytearray(make_elf({".debug_info": b"x"}, b"note"))
    struct.pack_into("<I", elf, 64, 1)  # its segment is a PT_LOAD
    struct.pack_into("<Q", elf, 64 + 16, BASE)
    return bytes(elf)


def kernel(tmp_path: Path, *, moves: bool, spec: str = "debian:7.3") -> Any:
    vmlinuz = tmp_path / "o/arch/x86/boot/bzImage"
    vmlinuz.parent.mkdir(parents=True, exist_ok=True)
    vmlinuz.write_bytes(b"MZ")
    boot = vmlinuz if moves else tmp_path / "vmlinux"
    names = {"release": "7.3.4-x", "version": "7.3.4-1", "spec": spec}
    return SimpleNamespace(vmlinuz=vmlinuz, boot=boot, **names)


def told(
    tmp_path: Path,
    link: object = None,
    *,
    console: str = "",
    moves: bool = True,
    spec: str = "debian:7.3",
) -> str:
    symbols = gdb.ask_symbols(link) if link else gdb.heard_symbols(console)  # type: ignore[arg-type]
    lines = gdb.tell(kernel(tmp_path, moves=moves, spec=spec), symbols, tmp_path / "gdb")
    return "\n".join(lines)


@pytest.mark.parametrize("where", ["o/vmlinux", "cache/symbols/usr/lib/debug/boot/vmlinux-7.3.4-x"])
def test_symbols_are_moved_as_kaslr_moved_the_kernel(tmp_path: Path, where: str) -> None:
    path = tmp_path / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(vmlinux())
    text = told(tmp_path, Link())
    assert f"-ex 'symbol-file -o 0x19000000 {path}' -ex 'target remote {tmp_path}/gdb'" in text
    assert f"_text is at {MOVED:#x}, 0x19000000 from where it is without KASLR" in text
    assert f"hbreak *{MOVED + 16:#x}  bq_flush_to_queue" in text


def test_a_kernel_that_stays_needs_no_agent(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o/vmlinux").write_bytes(vmlinux())
    text = told(tmp_path, moves=False)
    assert f"-ex 'symbol-file {tmp_path}/o/vmlinux'" in text
    assert "KASLR" not in text


@pytest.mark.parametrize("link", [None, NoList()])
def test_a_moved_kernel_whose_agent_does_not_tell(tmp_path: Path, link: object) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o/vmlinux").write_bytes(vmlinux())
    assert "where KASLR has put the kernel is not known" in told(tmp_path, link)


@pytest.mark.parametrize(
    ("said", "offset"),
    [
        ("0x19000000 from 0xffffffff81000000 (relocation range: 0x1-0x2)", "-o 0x19000000 "),
        ("disabled", ""),
    ],
)
def test_a_kernel_that_panicked_has_said_where_it_was(
    tmp_path: Path, said: str, offset: str
) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o/vmlinux").write_bytes(vmlinux())
    text = told(tmp_path, console=f"[    3.1] Kernel Offset: {said}\n")
    assert f"'symbol-file {offset}{tmp_path}/o/vmlinux'" in text
    assert "not known" not in text


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("debian:7.3", "download linux-image-7.3.4-x-dbg=7.3.4-1"),
        ("path:/x", "build it with CONFIG_DEBUG_INFO"),
    ],
)
def test_a_kernel_without_symbols(tmp_path: Path, spec: str, words: str) -> None:
    text = told(tmp_path, Link(), spec=spec)
    assert "symbol-file" not in text
    assert words in text


def test_a_stub_whose_path_is_too_long(tmp_path: Path) -> None:
    machine: Any = SimpleNamespace(directory=tmp_path / ("x" * 100))
    with pytest.raises(UserError, match="too long for a socket"):
        gdb.open_stub(machine)


def test_a_qemu_that_opens_no_stub(tmp_path: Path) -> None:
    machine: Any = SimpleNamespace(directory=tmp_path / "m", qmp=lambda *_, **__: "no gdb\r\n")
    with pytest.raises(UserError, match="opens no gdb stub: no gdb"):
        gdb.open_stub(machine)
