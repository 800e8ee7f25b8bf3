from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import harness.kernels.lock
import harness.kernels.lock_cli
from harness.errors import FetchFailed, KernelNotFound, NotLocked, UserError
from harness.kernels import prune, remembered, resolve
from harness.kernels.cli import kernels as commands
from harness.kernels.image import Pin
from harness.kernels.lock import read_lock, write_lock
from harness.lab import Lab
from harness.paths import REPO
from harness.tests.fakes import PVH, FakeApt, make_bzimage, make_elf
from harness.tests.test_kernels import MONOLITH, SPLIT, add_monolith, add_split, apt

__all__ = ["apt"]

NEWER = "6.1.0-57-cloud-amd64"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kernels.lock"
    for module in (harness.kernels.lock, harness.kernels.lock_cli):
        monkeypatch.setattr(module, "FILE", path)
    return path


@pytest.fixture
def locked(apt: FakeApt, file: Path) -> FakeApt:
    """An archive whose 6.1 was locked before a newer one came."""
    add_monolith(apt, MONOLITH, "6.1.192-2")
    write_lock({"debian:6.1": resolve("debian:6.1")})
    add_monolith(apt, NEWER, "6.1.195-1")
    return apt


def drop(apt: FakeApt, release: str) -> None:
    """Take a build out of the archive."""
    (apt.root / f"show.d/linux-image-{release}").write_text("")
    (apt.root / f"madison.d/linux-image-{release}").write_text("")


def run(*arguments: str) -> str:
    done = CliRunner().invoke(commands, arguments)
    return f"{done.output}{done.exception if isinstance(done.exception, UserError) else ''}"


def test_lock_is_written_and_read(locked: FakeApt, file: Path) -> None:
    kernel = resolve("debian:6.1")
    pin = read_lock().pin("debian:6.1")
    assert pin == Pin.of(kernel)
    assert [package.name for package in pin.packages] == [f"linux-image-{MONOLITH}"]
    text = file.read_text()
    assert "version: 6.1.192-2" in text
    assert "mirror" not in text
    assert "://" not in text


def test_what_is_locked_is_fetched_though_there_is_a_newer_one(locked: FakeApt) -> None:
    pin = read_lock().pin("debian:6.1")
    prune(keep=0)
    assert remembered("debian:6.1", pin) is None
    assert resolve("debian:6.1").version == "6.1.195-1"
    assert resolve("debian:6.1", pin=pin).version == "6.1.192-2"
    assert resolve("debian:6.1").version == "6.1.195-1", "the lock is asked for each time"
    known = remembered("debian:6.1", pin)
    assert known is not None
    assert known.version == "6.1.192-2"
    ran = len(locked.log)
    assert resolve("debian:6.1", pin=pin) == known
    assert len(locked.log) == ran


def test_what_is_not_in_the_lock_is_refused(locked: FakeApt) -> None:
    with pytest.raises(NotLocked, match=r"debian:7\.3 is not in .*kernels\.lock") as caught:
        Lab(lock=read_lock()).kernel("debian:7.3")
    assert "cpumap-lab kernels lock debian:7.3" in caught.value.remedy
    assert Lab(lock=read_lock()).kernel("debian:6.1").version == "6.1.192-2"


def test_dropped_package_names_the_nearest(locked: FakeApt) -> None:
    pin = read_lock().pin("debian:6.1")
    assert resolve("debian:6.1", pin=pin).version == "6.1.192-2"
    drop(locked, MONOLITH)
    assert resolve("debian:6.1", pin=pin).version == "6.1.192-2", "it is in the cache"
    prune(keep=0)
    complaint = r"debian:6\.1 is locked to 6\.1\.192-2 \(.*\), which the Debian archive has dropped"
    with pytest.raises(KernelNotFound, match=complaint) as caught:
        resolve("debian:6.1", pin=pin)
    assert "nearest: debian:6.1.195" in caught.value.remedy
    assert "cpumap-lab kernels lock debian:6.1" in caught.value.remedy


def test_other_packages_under_the_same_name(locked: FakeApt) -> None:
    pin = read_lock().pin("debian:6.1")
    prune(keep=0)
    drop(locked, MONOLITH)
    locked.add(f"linux-image-{MONOLITH}", "6.1.192-2", "bookworm", {"x": b"evil"})
    with pytest.raises(NotLocked, match=r"other packages of .* 6\.1\.192-2 than debian:6\.1 is"):
        resolve("debian:6.1", pin=pin)


def test_changed_kernel_in_the_cache(locked: FakeApt) -> None:
    pin = read_lock().pin("debian:6.1")
    kernel = resolve("debian:6.1", pin=pin)
    kernel.vmlinuz.write_bytes(make_bzimage(make_elf({".text": b"x"}, PVH)))
    with pytest.raises(NotLocked, match="another kernel than it is locked to: sha256 "):
        resolve("debian:6.1", pin=pin)
    with pytest.raises(NotLocked):
        remembered("debian:6.1", pin)


def test_rebuilt_bzimage(apt: FakeApt, file: Path, tmp_path: Path) -> None:
    bzimage = tmp_path / "bzImage"
    bzimage.write_bytes(make_bzimage())
    spec = f"path:{bzimage}"
    write_lock({spec: resolve(spec)})
    pin = read_lock().pin(spec)
    assert resolve(spec, pin=pin).vmlinuz == bzimage
    bzimage.write_bytes(make_bzimage(make_elf({".text": b"x"}, PVH)))
    with pytest.raises(NotLocked, match="another kernel than it is locked to") as caught:
        resolve(spec, pin=pin)
    assert f"cpumap-lab kernels lock {spec}" in caught.value.remedy


def test_lock_that_is_none(file: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*kernels\.lock") as caught:
        read_lock()
    assert "cpumap-lab kernels lock" in caught.value.remedy
    file.write_text("kernels:\n- spec: fedora:40\n  sha256: x\n")
    with pytest.raises(UserError, match=r"kernels\.lock:2:9: ") as caught:
        read_lock()
    assert "a sha256 of 64 hexadecimal digits" in caught.value.message


def test_lock_command(locked: FakeApt, file: Path) -> None:
    add_split(locked, SPLIT, "7.3.4-1~bpo13+1")
    assert "debian:7.3: new -> 7.3.4-1~bpo13+1\n1 kernels locked, 1 changed" in run(
        "lock", "debian:7.3"
    )
    assert set(read_lock().pins) == {"debian:6.1", "debian:7.3"}
    output = run("lock")
    assert "debian:6.1: 6.1.192-2 -> 6.1.195-1\n2 kernels locked, 1 changed" in output
    assert "2 kernels locked, 0 changed" in run("lock")


def test_first_lock_is_of_the_matrix(
    apt: FakeApt, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def note(spec: str, **_: object) -> None:
        asked.append(spec)
        raise FetchFailed("enough")

    monkeypatch.setattr(harness.kernels.lock_cli, "resolve", note)
    CliRunner().invoke(commands, ["lock"])
    assert asked == ["debian:5.10"]
    assert not file.exists()


def test_fetch_locked(locked: FakeApt) -> None:
    prune(keep=0)
    assert f"debian:6.1\t{MONOLITH}\t6.1.192-2\t" in run("fetch", "--locked")
    assert "debian:7.3 is not in" in run("fetch", "--locked", "debian:7.3")
    assert "give SPEC..., or --locked" in run("fetch")
    assert "give one" in run("fetch", "--locked", "--refresh")


def test_show(locked: FakeApt, tmp_path: Path) -> None:
    output = run("show", "debian:6.1")
    assert f"release   {MONOLITH}" in output
    assert "boots     the ELF kernel, by its PVH note: " in output
    assert "lacks     CONFIG_SMP (several CPUs)\n" in output
    assert f"packages  linux-image-{MONOLITH} 6.1.192-2 sha256 " in output
    bzimage = tmp_path / "bzImage"
    bzimage.write_bytes(make_bzimage(make_elf()))
    done = CliRunner().invoke(commands, ["show", "--json", f"path:{bzimage}"])
    (told,) = json.loads(done.stdout)
    assert told["config"] == "not found"
    assert told["boots"] == f"the bzImage: {bzimage}"
    assert told["numbers"] == "6.1.7"


@pytest.mark.parametrize(
    "command",
    [
        ("cpumap-lab", "run", "configs/quickstart.yaml", "--kernel", "debian:4.19"),
        ("cpumap-lab", "matrix", "--kernel", "debian:4.19"),
        ("cpumap-lab", "kernels", "fetch", "debian:4.19"),
        ("pytest", "cases", "--kernel", "debian:4.19"),
    ],
)
def test_front_doors_take_nothing_else(command: tuple[str, ...], tmp_path: Path) -> None:
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [program, *command[1:], "--locked"],
        cwd=REPO,
        env={**os.environ, "CPUMAP_LAB_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (2, pytest.ExitCode.USAGE_ERROR)
    assert "debian:4.19 is not in" in done.stderr
    assert "`cpumap-lab kernels lock debian:4.19` puts it there" in done.stderr
    assert "Traceback" not in done.stderr
