"""Snapshots of machines that are no machines: a directory, its checks, and its builders."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest

import harness.machine.machine
import harness.machine.snapshot
from harness.errors import BootFailed, CacheError, LabError, QemuFailed, ToolMissing
from harness.images import Initramfs
from harness.kernels import KernelImage
from harness.landing import land_directory
from harness.machine.machine import Recipe
from harness.machine.qemu import Qemu
from harness.machine.snapshot import (
    Snapshot,
    clone,
    freeze,
    list_snapshots,
    prune,
    snapshot_of,
    thaw,
)
from harness.machine.topology import Accel, Topology

if TYPE_CHECKING:
    from collections.abc import Callable

RAM_BYTES = 8 << 20
PREPARED = {"ifindex": {"lo": 1, "eth0": 2}, "rings": [1, 2, 3]}


class FakeMachine:
    """Has RAM, a state to save, and can be told what goes wrong."""

    made: ClassVar[list[FakeMachine]] = []
    boot: ClassVar[Callable[[], None]] = lambda: None
    migration: ClassVar[dict[str, str]] = {"status": "completed"}
    state: ClassVar[bytes] = b"device state"
    full: ClassVar[CacheError | None] = None

    def __init__(
        self,
        recipe: Recipe,
        *,
        ram: Path | None = None,
        share_ram: bool = False,
        incoming: bool = False,
    ) -> None:
        self.recipe = recipe
        self.ram = ram
        self.incoming = incoming
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.closed = False
        self.status = "paused" if incoming else "running"
        type(self).made.append(self)
        if share_ram and ram:
            with ram.open("wb") as file:
                file.truncate(RAM_BYTES)
                os.pwrite(file.fileno(), b"data in the middle", 5 << 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def wait_boot(self) -> None:
        type(self).boot()

    def no_room(self) -> CacheError | None:
        return type(self).full

    def qmp(self, name: str, **arguments: Any) -> Any:
        self.said.append((name, arguments))
        if name == "migrate":
            self.status = "postmigrate"
            if arguments["uri"].startswith("file:"):
                Path(arguments["uri"].removeprefix("file:")).write_bytes(self.state)
        if name == "query-migrate":
            return self.migration
        return {"status": self.status}


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


@pytest.mark.parametrize(("version", "taken"), [((8, 1, 9), False), ((8, 2, 0), True)])
def test_nodes_need_a_qemu_that_lays_them_in_one_file(
    recipe: Recipe, version: tuple[int, int, int], taken: bool
) -> None:
    qemu = dataclasses.replace(recipe.qemu, version=version)
    dataclasses.replace(recipe, qemu=qemu)  # one node always goes
    with contextlib.nullcontext() if taken else pytest.raises(ToolMissing, match=r"8\.2\.0"):
        dataclasses.replace(recipe, qemu=qemu, topology=Topology(nodes=2))


def take(recipe: Recipe, salt: str = "salt") -> Snapshot:
    return snapshot_of(recipe, lambda _: PREPARED, salt=salt)


def boots() -> int:
    """Return how many templates were booted."""
    return sum(not machine.incoming for machine in FakeMachine.made)


def left(root: Path) -> set[str]:
    """Return what there is in the room of the snapshots, locks aside."""
    return {path.name for path in root.iterdir() if not path.name.endswith(".lock")}


# Taking


def test_the_first_time_boots_and_the_second_does_not(recipe: Recipe, root: Path) -> None:
    first = take(recipe)
    assert take(recipe) == first
    assert boots() == 1
    assert first.prepared == PREPARED
    assert left(root) == {first.directory.name}
    assert (first.directory / "state").read_bytes() == b"device state"


def test_the_template_is_stopped_before_it_is_saved_and_ended_after(recipe: Recipe) -> None:
    take(recipe)
    (template,) = FakeMachine.made
    said = [name for name, _ in template.said]
    assert said[:3] == ["stop", "migrate-set-capabilities", "migrate"]
    assert "cont" not in said
    assert template.closed


def test_a_clone_runs_on_the_snapshots_ram(recipe: Recipe) -> None:
    snapshot = take(recipe)
    machine = clone(recipe, snapshot)
    assert machine is FakeMachine.made[-1]  # type: ignore[comparison-overlap]
    fake = FakeMachine.made[-1]
    assert fake.incoming
    assert fake.ram == snapshot.directory / "ram"
    assert [name for name, _ in fake.said] == [
        "migrate-set-capabilities",
        "migrate-set-parameters",
        "migrate-incoming",
        "query-migrate",
        "query-status",
        "cont",
    ]
    assert fake.said[1][1] == {"announce-rounds": 0}
    assert fake.said[2][1] == {"uri": f"file:{snapshot.directory}/state"}
    assert not fake.closed


def test_an_old_qemu_is_given_a_shell_command(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = dataclasses.replace(recipe, qemu=dataclasses.replace(recipe.qemu, version=(7, 2, 11)))
    ran: list[str] = []

    def qmp(_: FakeMachine, name: str, **given: str) -> dict[str, str]:
        if name == "migrate":
            ran.append(given["uri"])
            command = given["uri"].removeprefix("exec:").replace("cat >", "echo state >")
            subprocess.run(command, shell=True, check=True)
        return {"status": "completed"}

    monkeypatch.setattr(FakeMachine, "qmp", qmp)
    snapshot = take(old)
    assert (snapshot.directory / "state").read_bytes() == b"state\n"
    assert ran[0].startswith("exec:cat >'/")


def test_a_guest_is_frozen_where_it_stands_and_thawed(recipe: Recipe, tmp_path: Path) -> None:
    machine, path = FakeMachine(recipe), tmp_path / "it's"
    freeze(machine, path)  # type: ignore[arg-type]
    said = [name for name, _ in machine.said]
    assert said == ["stop", "migrate-set-capabilities", "migrate", "query-migrate", "query-status"]
    assert machine.said[2][1]["uri"] == f"exec:gzip -1 >{shlex.quote(str(path))}"
    thaw(recipe, path)
    fake = FakeMachine.made[-1]
    assert (fake.incoming, fake.ram) == (True, None)
    assert fake.said[2][1] == {"uri": f"exec:gzip -dc {shlex.quote(str(path))}"}
    assert fake.said[-1][0] == "cont"


def test_a_guest_that_takes_too_much_is_not_frozen(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = FakeMachine(recipe)
    moving: dict[str, Any] = {"status": "active", "ram": {"transferred": 2 << 30}}
    monkeypatch.setattr(FakeMachine, "migration", moving)
    with pytest.raises(QemuFailed, match="more than 1024 MiB"):
        freeze(machine, tmp_path / "state")  # type: ignore[arg-type]
    assert machine.said[-1][0] == "migrate_cancel"


@pytest.mark.parametrize("migration", [{"status": "failed", "error-desc": "no room"}, {}])
def test_a_guest_that_is_not_moved(
    recipe: Recipe, root: Path, monkeypatch: pytest.MonkeyPatch, migration: dict[str, str]
) -> None:
    snapshot = take(recipe)
    monkeypatch.setattr(FakeMachine, "migration", migration)
    monkeypatch.setattr(harness.machine.snapshot, "SAVE_S", 0.02)
    monkeypatch.setattr(harness.machine.snapshot, "LOAD_S", 0.02)
    told = "no room" if migration else "within 0 s"
    with pytest.raises(QemuFailed, match=told):
        clone(recipe, snapshot)
    with pytest.raises(QemuFailed, match=told):
        take(recipe, "another")
    assert all(machine.closed for machine in FakeMachine.made)
    assert left(root) == {snapshot.directory.name}


# The digest


def replaced(recipe: Recipe, part: str, **changes: Any) -> Recipe:
    whole: Any = dataclasses.replace(getattr(recipe, part), **changes)
    return dataclasses.replace(recipe, **{part: whole})


INGREDIENTS: dict[str, Callable[[Recipe], Recipe]] = {
    "the QEMU binary": lambda r: replaced(r, "qemu", sha256="x"),
    "the QEMU version": lambda r: replaced(r, "qemu", version_string="QEMU 10.0.3"),
    "the kernel": lambda r: replaced(r, "kernel", sha256="x"),
    "how it is booted": lambda r: replaced(r, "kernel", boot=Path("/k/vmlinuz")),
    "its timer": lambda r: replaced(r, "kernel", config=None),
    "the initramfs": lambda r: replaced(r, "initramfs", digest="x"),
    "CPUs": lambda r: replaced(r, "topology", cpus=3),
    "memory": lambda r: replaced(r, "topology", memory_mib=513),
    "NICs": lambda r: replaced(r, "topology", nics=2),
    "the command line": lambda r: replaced(r, "topology", append="slub_debug=FZPU"),
    "the accelerator": lambda r: replaced(r, "accel", name="kvm", threads=""),
    "the CPU model": lambda r: replaced(r, "accel", cpu="max"),
}
NO_INGREDIENTS: dict[str, Callable[[Recipe], Recipe]] = {
    "how many threads its clones run on": lambda r: replaced(r, "accel", threads="single"),
    "where QEMU is": lambda r: replaced(r, "qemu", binary=Path("/x"), args=(), origin="path"),
    "where the kernel is": lambda r: replaced(r, "kernel", boot=Path("/x/vmlinux")),
    "what the kernel is called": lambda r: replaced(r, "kernel", spec="path:/x"),
    "where the initramfs is": lambda r: replaced(r, "initramfs", path=Path("/x")),
    "the accelerator's threads": lambda r: replaced(r, "accel", threads="single"),
    "why the accelerator": lambda r: replaced(r, "accel", why="so", pace=3.0),
}


@pytest.mark.parametrize("change", INGREDIENTS.values(), ids=INGREDIENTS)
def test_another_ingredient_another_snapshot(
    recipe: Recipe, change: Callable[[Recipe], Recipe]
) -> None:
    assert take(change(recipe)).directory != take(recipe).directory
    assert boots() == 2


@pytest.mark.parametrize("change", NO_INGREDIENTS.values(), ids=NO_INGREDIENTS)
def test_what_goes_not_into_a_guest_does_not_count(
    recipe: Recipe, change: Callable[[Recipe], Recipe]
) -> None:
    assert take(change(recipe)).directory == take(recipe).directory
    assert boots() == 1


def test_another_preparation_another_snapshot(recipe: Recipe) -> None:
    assert take(recipe, "one").directory != take(recipe, "two").directory


def test_a_hosts_cpu_counts_when_the_guest_has_it(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    kvm = dataclasses.replace(recipe, accel=Accel("kvm", "", "because", "host"))
    here = kvm.digest()
    assert harness.machine.machine.host_cpu()
    monkeypatch.setattr(harness.machine.machine, "host_cpu", lambda: "another machine's")
    assert kvm.digest() != here


# Damage


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def flip_unseen(path: Path, at: int) -> None:
    """Flip a bit and set the time back."""
    before = path.stat()
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)
    while True:  # the clock of a file system ticks
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        if path.stat().st_ctime_ns != before.st_ctime_ns:
            break


def swap_for_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def meta(directory: Path, **changes: Any) -> None:
    path = directory / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit in the RAM": lambda d: flip(d / "ram", 5 << 20),
    "a bit in a hole of the RAM": lambda d: flip(d / "ram", 1 << 20),
    "a bit in the RAM, unseen": lambda d: flip_unseen(d / "ram", 5 << 20),
    "shorter RAM": lambda d: os.truncate(d / "ram", RAM_BYTES - 4096),
    "longer RAM": lambda d: os.truncate(d / "ram", RAM_BYTES + 4096),
    "no RAM": lambda d: (d / "ram").unlink(),
    "a bit in the state": lambda d: flip(d / "state", 3),
    "shorter state": lambda d: os.truncate(d / "state", 5),
    "no state": lambda d: (d / "state").unlink(),
    "a directory for a state": lambda d: swap_for_directory(d / "state"),
    "no meta": lambda d: (d / "meta.json").unlink(),
    "an empty meta": lambda d: (d / "meta.json").write_text(""),
    "half a meta": lambda d: os.truncate(d / "meta.json", 40),
    "garbage meta": lambda d: (d / "meta.json").write_bytes(os.urandom(100)),
    "another meta": lambda d: (d / "meta.json").write_text('["ram", "state"]'),
    "a number for a meta": lambda d: (d / "meta.json").write_text("7"),
    "a meta without files": lambda d: meta(d, files={}),
    "a meta with a list of files": lambda d: meta(d, files=["ram", "state"]),
    "a bit in what was prepared": lambda d: meta(d, prepared={"ifindex": {"lo": 1, "eth0": 3}}),
    "an empty directory": empty,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_snapshot_is_built_anew(
    recipe: Recipe, root: Path, damage: Callable[[Path], object]
) -> None:
    good = take(recipe)
    content = (good.directory / "ram").read_bytes()
    damage(good.directory)
    again = take(recipe)
    assert boots() == 2
    assert again.directory == good.directory
    assert again.prepared == PREPARED
    assert (again.directory / "ram").read_bytes() == content
    assert left(root) == {good.directory.name}
    take(recipe)
    assert boots() == 2


def test_a_copy_with_other_holes_is_not_damaged(recipe: Recipe) -> None:
    """cp and file systems make holes as they like."""
    ram = take(recipe).directory / "ram"
    ram.write_bytes(ram.read_bytes())
    take(recipe)
    assert boots() == 1


def test_what_was_checked_is_not_checked_again(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(recipe)
    monkeypatch.setattr(harness.machine.snapshot, "_checksum", lambda _: "wrong")
    take(recipe)
    assert boots() == 1


def test_a_disk_that_damages_what_is_written(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(100))
    monkeypatch.setattr(harness.machine.snapshot, "_checksum", lambda _: str(next(numbers)))
    with pytest.raises(QemuFailed, match="does not match its own checksums") as caught:
        take(recipe)
    assert "--no-snapshot" in caught.value.remedy


def test_a_full_disk_does_not_make_a_snapshot_bad(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = take(recipe)
    (good.directory / "vouched.json").unlink()

    def no_room(*_: object) -> None:
        raise CacheError("no space")

    monkeypatch.setattr(harness.machine.snapshot, "write_atomically", no_room)
    assert take(recipe) == good
    assert boots() == 1


# Builders


def raising(error: BaseException) -> Callable[[], None]:
    def boot() -> None:
        raise error

    return boot


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (BootFailed("no", phase="kernel", console=""), BootFailed),
        (LabError("no"), LabError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), CacheError),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
@pytest.mark.parametrize("where", ["boot", "prepare"])
def test_nothing_half_written_after_an_error(
    recipe: Recipe,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    seen: type[BaseException],
    where: str,
) -> None:
    fail = raising(error)
    if where == "boot":
        monkeypatch.setattr(FakeMachine, "boot", fail)

    def prepare(_: object) -> dict[str, Any]:
        fail()
        return {}

    with pytest.raises(seen):
        snapshot_of(recipe, prepare, salt="salt")
    assert left(root) == set()
    assert all(machine.closed for machine in FakeMachine.made)


def test_an_error_on_a_full_disk_is_told_as_that(
    recipe: Recipe, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeMachine, "boot", raising(QemuFailed("it died")))
    monkeypatch.setattr(FakeMachine, "full", CacheError("no room"))
    with pytest.raises(CacheError, match="no room"):
        take(recipe)
    assert left(root) == set()


def test_two_builders_at_once_build_one(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    results: list[Snapshot] = []

    def build() -> None:
        both.wait()
        results.append(take(recipe))

    builders = [threading.Thread(target=build) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert boots() == 1
    assert results[0] == results[1]


def test_the_second_builder_builds_what_the_first_could_not(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, go_on = threading.Event(), threading.Event()

    def boot() -> None:
        if len(FakeMachine.made) == 1:
            building.set()
            go_on.wait()
            raise BootFailed("not me", phase="none", console="")

    def land(*how: Any) -> Path:
        if building.is_set():
            go_on.set()
        return land_directory(*how)

    monkeypatch.setattr(FakeMachine, "boot", boot)
    monkeypatch.setattr(harness.machine.snapshot, "land_directory", land)
    failed: list[BaseException] = []

    def first() -> None:
        try:
            take(recipe)
        except BootFailed as error:
            failed.append(error)

    builder = threading.Thread(target=first)
    builder.start()
    building.wait()
    assert take(recipe).prepared == PREPARED
    builder.join()
    assert len(failed) == 1


# Pruning


@pytest.fixture
def three(recipe: Recipe) -> list[Path]:
    """Three snapshots, the oldest first."""
    paths = [take(recipe, salt).directory for salt in ("a", "b", "c")]
    for age, path in enumerate(reversed(paths)):
        os.utime(path / "meta.json", (1e9 - age, 1e9 - age))
    return paths


def size(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.iterdir())


def test_the_one_not_used_for_longest_goes_first(three: list[Path], root: Path) -> None:
    total = sum(map(size, three))
    assert prune(total) == []
    assert prune(total - 1) == [three[0]]
    assert left(root) == {path.name for path in three[1:]}
    assert prune() == three[1:]
    assert left(root) == set()


def test_using_one_keeps_it(three: list[Path], recipe: Recipe) -> None:
    take(recipe, "a")
    assert prune(size(three[0])) == three[1:]


def test_one_may_be_spared(three: list[Path], root: Path) -> None:
    assert prune(spare=three[0]) == three[1:]
    assert left(root) == {three[0].name}


def test_damaged_ones_go_before_all_others(three: list[Path]) -> None:
    (three[2] / "meta.json").unlink()
    assert prune(sum(map(size, three)) - 1) == [three[2]]


def test_a_new_one_makes_room_for_itself(
    three: list[Path], recipe: Recipe, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.machine.snapshot, "LIMIT_BYTES", 2 * size(three[0]) + 4096)
    new = take(recipe, "d").directory
    assert left(root) == {three[2].name, new.name}


def test_what_is_being_built_is_left_alone(
    three: list[Path], recipe: Recipe, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned: list[Path] = []
    monkeypatch.setattr(FakeMachine, "boot", lambda: pruned.extend(prune()))
    built = take(recipe, "d").directory
    assert pruned == three
    assert left(root) == {built.name}
    assert boots() == 4


def test_what_a_killed_builder_left_is_swept(three: list[Path], root: Path) -> None:
    part = root / ".0123456789abcdef.part"
    part.mkdir()
    (part / "ram").write_bytes(b"half")
    prune(sum(map(size, three)))
    assert left(root) == {path.name for path in three}


def test_they_are_listed_for_people(three: list[Path]) -> None:
    (three[1] / "meta.json").write_text("garbage")
    listed = list_snapshots()
    assert [kept.directory for kept in listed] == [three[0], three[2], three[1]]
    assert [kept.kernel for kept in listed] == ["6.1.0-1-cloud-amd64"] * 2 + ["?"]
    assert listed[0].guest == "4 CPUs, 512 MiB"
    assert listed[0].size == size(three[0])
