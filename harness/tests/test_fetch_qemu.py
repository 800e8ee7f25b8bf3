from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

import harness.apt.mirrors
import harness.machine.fetch_qemu
from harness.errors import FetchFailed, ToolMissing
from harness.landing import sha256_of
from harness.machine.fetch_cli import qemu as commands
from harness.machine.fetch_qemu import fetch_qemu
from harness.machine.qemu import PROGRAM, Qemu, find_qemu
from harness.tests.fakes import FakeApt

NEW = "1:10.0.2+ds-2~bpo12+1"


def script(version: str = "10.0.2", *, machine: str = "exit 0") -> bytes:
    """A QEMU that knows its version and notes that it ran."""
    return f"""\
#!/bin/sh
echo "$*" >> "$FAKE/ran"
case "$*" in
*--version*) echo "QEMU emulator version {version} (Debian)" ;;
*) {machine} ;;
esac
""".encode()


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CPUMAP_LAB_QEMU", raising=False)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    (tmp_path / "keyring.gpg").touch()
    monkeypatch.setattr(harness.apt.mirrors, "KEYRINGS", (tmp_path / "keyring.gpg",))
    for module in (harness.apt.mirrors, harness.machine.fetch_qemu):
        monkeypatch.setattr(module, "own_codename", lambda: "bookworm")
    fake = FakeApt(tmp_path / "fake")
    fake.install(monkeypatch)
    # No QEMU but those of the test.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "cp", "sed", "flock", "true", "kill"):
        (tools / name).symlink_to(Path("/usr/bin") / name)
    monkeypatch.setenv("PATH", f"{fake.root / 'bin'}:{tools}")
    return fake


def program(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def in_cache(tmp_path: Path, version: str, content: bytes) -> Path:
    return program(tmp_path / "cache/qemu" / version / "usr/bin" / PROGRAM, content)


def on_path(apt: FakeApt, content: bytes) -> Path:
    return program(apt.root / "bin" / PROGRAM, content)


def runs(apt: FakeApt) -> list[str]:
    path = apt.root / "ran"
    return path.read_text().splitlines() if path.exists() else []


# Finding


def test_none(apt: FakeApt) -> None:
    with pytest.raises(ToolMissing, match="none fetched, none on PATH") as caught:
        find_qemu()
    assert caught.value.remedy == "run `cpumap-lab qemu fetch`"


def test_on_path(apt: FakeApt) -> None:
    binary = on_path(apt, script("7.2.19"))
    found = find_qemu()
    assert found == Qemu(
        *(binary, (7, 2, 19), "QEMU emulator version 7.2.19 (Debian)", (), {}),
        *(sha256_of(binary), "path"),
    )
    assert hash(found)


def test_cached_comes_before_path_and_the_newest_first(apt: FakeApt, tmp_path: Path) -> None:
    on_path(apt, script("11.0.0"))
    in_cache(tmp_path, "1_9.2+ds-1", script("9.2.0"))
    binary = in_cache(tmp_path, "1_10.0.2+ds-2", script("10.0.2"))
    in_cache(tmp_path, ".1_99.part", script("99.0.0"))
    library = binary.parents[1] / "lib/x86_64-linux-gnu/libx.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    found = find_qemu()
    assert (found.binary, found.version, found.origin) == (binary, (10, 0, 2), "cache")
    assert found.env == {"LD_LIBRARY_PATH": str(library.parent)}
    assert found.args[:2] == ("-L", str(binary.parents[2] / "usr/share/qemu"))
    assert str(binary.parents[2] / "usr/share/seabios") in found.args


def test_own_libraries_come_before_inherited(
    apt: FakeApt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    in_cache(tmp_path, "1_10", script())
    assert find_qemu().env["LD_LIBRARY_PATH"] == "/opt/lib"


def test_cached_that_does_not_run_is_passed_over(apt: FakeApt, tmp_path: Path) -> None:
    in_cache(tmp_path, "1_10", b"#!/bin/sh\necho 'libx.so: cannot open' >&2; exit 127\n")
    with pytest.raises(ToolMissing, match=r"libx\.so: cannot open"):
        find_qemu()
    on_path(apt, script("7.2.0"))
    assert find_qemu().origin == "path"


def test_named(apt: FakeApt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_cache(tmp_path, "1_10", script())
    mine = program(tmp_path / "mine/qemu", script("9.0.0"))
    monkeypatch.setenv("CPUMAP_LAB_QEMU", str(mine))
    assert (find_qemu().binary, find_qemu().origin) == (mine, "CPUMAP_LAB_QEMU")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "names no program"),
        (b"#!/bin/sh\necho hello\n", "is no QEMU"),
        (b"#!/bin/sh\n", "is no QEMU"),
        (b"#!/bin/sh\nexit 3\n", "failed with 3"),
        (b"\x7fELF rubbish", "does not run"),
    ],
)
def test_named_wrongly(
    apt: FakeApt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, complaint: str
) -> None:
    on_path(apt, script())
    mine = tmp_path / "mine"
    if content:
        program(mine, content)
    monkeypatch.setenv("CPUMAP_LAB_QEMU", str(mine))
    with pytest.raises(ToolMissing, match=complaint):
        find_qemu()


def test_it_is_asked_once(apt: FakeApt) -> None:
    binary = on_path(apt, script("7.2.0"))
    first = find_qemu()
    assert find_qemu() == first
    assert runs(apt) == ["--version"]
    os.utime(binary, (1, 1))
    find_qemu()
    assert len(runs(apt)) == 2, "another file may stand there now"


def test_damaged_memo_is_made_again(apt: FakeApt, tmp_path: Path) -> None:
    on_path(apt, script("7.2.0"))
    first = find_qemu()
    (memo,) = (tmp_path / "cache/qemu/probed").iterdir()
    memo.write_text("{")
    assert find_qemu() == first


# Fetching


def offer(apt: FakeApt, content: bytes) -> None:
    apt.add("qemu-system-x86", "1:7.2-1", "bookworm", {f"usr/bin/{PROGRAM}": script("7.2.0")})
    (apt.root / "pool/qemu-system-x86_1%3a7.2-1_amd64.deb").unlink()
    members: dict[str, bytes | str] = {f"usr/bin/{PROGRAM}": content, "usr/share/doc/x": b""}
    apt.add("qemu-system-x86", NEW, "bookworm-backports", members)
    apt.add("qemu-system-common", NEW, "bookworm-backports", {"usr/share/doc/y": b""})
    apt.add("qemu-system-data", NEW, "bookworm-backports", {"usr/share/qemu/pvh.bin": b""})
    apt.add("seabios", "1.16-1", "bookworm", {"usr/share/seabios/vgabios.bin": "bios.bin"})
    apt.add("ipxe-qemu", "1.0-1", "bookworm", {"usr/lib/ipxe/qemu/efi.rom": b""})
    apt.add("libx", "1-1", "bookworm", {"lib/x86_64-linux-gnu/libx.so.1": b""})
    apt.answer(
        "plan",
        "Inst libx (1-1 Debian:12/oldstable [amd64])\n"
        f"Inst qemu-system-x86 ({NEW} Debian Backports:x [amd64])\n",
    )


def test_fetch(apt: FakeApt, tmp_path: Path) -> None:
    offer(apt, script())
    found = fetch_qemu()
    root = tmp_path / "cache/qemu/1_10.0.2+ds-2~bpo12+1"
    assert (found.version, found.origin) == ((10, 0, 2), "cache")
    assert found.binary == root / "usr/bin" / PROGRAM
    assert (root / "usr/share/qemu/pvh.bin").exists(), "though the machine may have it installed"
    assert found.env == {"LD_LIBRARY_PATH": str(root / "usr/lib/x86_64-linux-gnu")}
    assert not (root / "usr/share/doc").exists()
    assert not (root / "debs").exists()
    asked = runs(apt)
    assert any(line.endswith("--version") for line in asked)
    assert any(line.endswith("-machine help") for line in asked)
    assert find_qemu() == found
    ran = len([line for line in apt.log if " download" in line])
    assert fetch_qemu() == found
    assert len([line for line in apt.log if " download" in line]) == ran


def test_what_does_not_run_does_not_land(apt: FakeApt, tmp_path: Path) -> None:
    offer(apt, script(machine="echo 'no firmware' >&2; exit 1"))
    with pytest.raises(ToolMissing, match="no firmware"):
        fetch_qemu()
    assert not list((tmp_path / "cache/qemu").glob("1_10*"))
    assert not list((tmp_path / "cache/qemu").glob(".*.part"))


def test_interrupted_fetch_is_recovered(apt: FakeApt, tmp_path: Path) -> None:
    offer(apt, script())
    left = tmp_path / "cache/qemu/.1_10.0.2+ds-2~bpo12+1.part"
    program(left / "usr/bin" / PROGRAM, b"half")
    with pytest.raises(ToolMissing):
        find_qemu()
    assert fetch_qemu().version == (10, 0, 2)
    assert not left.exists()


def test_fetch_replaces_what_runs_no_longer(apt: FakeApt, tmp_path: Path) -> None:
    offer(apt, script())
    in_cache(tmp_path, "1_10.0.2+ds-2~bpo12+1", b"#!/bin/sh\nexit 127\n")
    assert fetch_qemu().version == (10, 0, 2)


def test_mirror_without_qemu(apt: FakeApt) -> None:
    with pytest.raises(FetchFailed, match="no qemu-system-x86 for bookworm"):
        fetch_qemu()


def test_machine_that_is_no_debian(apt: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.machine.fetch_qemu, "own_codename", lambda: "")
    with pytest.raises(ToolMissing, match="names no release"):
        fetch_qemu()


def test_commands(apt: FakeApt) -> None:
    offer(apt, script())
    fetched = CliRunner().invoke(commands, ["fetch"], catch_exceptions=False)
    assert "QEMU emulator version 10.0.2" in fetched.stdout
    assert "fetching QEMU 1:10.0.2" in fetched.stderr
    shown = CliRunner().invoke(commands, ["show"], catch_exceptions=False)
    assert "`cpumap-lab qemu fetch` brought it" in shown.output
    report = json.loads(CliRunner().invoke(commands, ["show", "--json"]).stdout)
    assert (report["version"], report["origin"]) == ("10.0.2", "cache")
