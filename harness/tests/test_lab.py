"""The workshop, with everything that it calls on replaced."""

from __future__ import annotations

import os
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

import harness.lab
from harness.errors import (
    AgentLost,
    BootFailed,
    CacheError,
    ClockOff,
    GuestError,
    KernelNotFound,
    LabError,
    QemuFailed,
    ToolMissing,
    UserError,
)
from harness.guest import PREPARED_BY
from harness.images import Initramfs
from harness.lab import BOOTS, Lab, sweep_runs
from harness.machine.machine import own
from harness.machine.topology import Accel, Topology

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from harness.machine.machine import Recipe


@pytest.fixture(autouse=True)
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/run").mkdir(parents=True)
    return tmp_path / "cache/run"


def dead_pid() -> int:
    """Return the pid of a process that has ended and been collected."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


# Sweeping


def test_what_killed_harnesses_left_is_swept(run_dir: Path) -> None:
    dead, mine, others = (f"{pid}-x" for pid in (dead_pid(), os.getpid(), os.getppid()))
    for name in (dead, mine, others, "README", "0x1-y"):
        (run_dir / name).mkdir()
        (run_dir / name / "ram").write_bytes(b"1")
    sweep_runs()
    assert {path.name for path in run_dir.iterdir()} == {mine, others, "README", "0x1-y"}


def test_what_a_harness_in_another_container_owns_is_left(run_dir: Path) -> None:
    """Its pid says nothing here."""
    directory = run_dir / f"{dead_pid()}-x"
    directory.mkdir()
    descriptor = own(directory)
    sweep_runs()
    assert directory.is_dir()
    os.close(descriptor)
    sweep_runs()
    assert not directory.exists()


def test_a_file_in_the_way_does_no_harm(run_dir: Path) -> None:
    (run_dir / f"{dead_pid()}-x").touch()
    sweep_runs()


def test_a_new_lab_sweeps(run_dir: Path) -> None:
    (run_dir / f"{dead_pid()}-x").mkdir()
    Lab()
    assert list(run_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "alive"), [(ProcessLookupError, False), (PermissionError, True), (None, True)]
)
def test_a_process_of_another_user_lives(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, error: type[OSError] | None, alive: bool
) -> None:
    def kill(pid: int, signal: int) -> None:
        assert (pid, signal) == (4242, 0)
        if error:
            raise error

    monkeypatch.setattr("harness.lab.os.kill", kill)
    (run_dir / "4242-x").mkdir()
    sweep_runs()
    assert (run_dir / "4242-x").exists() == alive


# Recipes


class World:
    """What a lab calls on: says what it was asked, and fails as told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.missing: tuple[str, ...] = ()
        self.faults: list[str] = []
        self.modules: Path | None = Path("/lib/modules/6.1.0")
        self.clones: list[BaseException | None] = []
        self.uptime: list[BaseException | None] = []
        self.boot: BaseException | None = None
        self.prepare: list[BaseException | None] = []
        self.closed = 0

    def kernel(self, spec: str, **_: object) -> Any:
        self.asked.append(f"resolve {spec}")
        return SimpleNamespace(release="6.1.0", modules=self.modules)

    def initramfs(self, *_: object, **__: object) -> Initramfs:
        return Initramfs(Path("/i"), "0" * 64, self.missing)

    def snapshot_of(self, _: object, prepare: Any, *, salt: str) -> Any:
        assert salt == PREPARED_BY
        self.asked.append("snapshot")
        return SimpleNamespace(directory=Path("/s"), prepared=prepare(None))

    def machine(self, *_: object) -> FakeMachine:
        self.asked.append("machine")
        return FakeMachine(self)

    def clone(self, *_: object) -> FakeMachine:
        self.maybe(self.clones.pop(0) if self.clones else None)
        return self.machine()

    def prepared(self, _: object) -> dict[str, object]:
        self.maybe(self.prepare.pop(0) if self.prepare else None)
        return {}

    def guest_of(self, *_: object) -> Any:
        def read(path: str) -> str:
            assert path == "/proc/uptime"
            self.maybe(self.uptime.pop(0) if self.uptime else None)
            return "7 7"

        return SimpleNamespace(read=read)

    def maybe(self, error: BaseException | None) -> None:
        if error is not None:
            raise error


class FakeMachine:
    """Counts how often it is closed."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._world.closed += 1

    def wait_boot(self) -> None:
        self._world.maybe(self._world.boot)

    def settling(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    replaced = {
        "find_qemu": lambda: SimpleNamespace(version=(10, 0, 2)),
        "choose_accel": lambda _: Accel("tcg", "multi", "why"),
        "resolve": world.kernel,
        "unfit": lambda _: world.faults,
        "slowdown": lambda _: 3.0,
        "why_too_many": lambda _, cpus: "8 CPUs, not 9" if cpus > 8 else None,
        "build_initramfs": world.initramfs,
        "built": Path,
        "built_objects": list,
        "snapshot_of": world.snapshot_of,
        "clone": world.clone,
        "Machine": world.machine,
        "prepare": world.prepared,
        "Guest": SimpleNamespace(of=world.guest_of),
        "take_away": lambda path: world.asked.append(f"take away {path}"),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(harness.lab, name, value)
    return world


def test_a_recipe_has_all_that_decides(world: World) -> None:
    topology = Topology(cpus=2)
    recipe: Recipe = Lab().recipe("debian:6.1", topology)
    assert recipe.topology is topology
    assert recipe.accel.argument == "tcg,thread=multi"
    assert recipe.kernel.release == "6.1.0"


def test_a_kernel_is_resolved_once(world: World) -> None:
    lab = Lab()
    assert lab.kernel("debian:6.1") is lab.kernel("debian:6.1")
    lab.kernel("debian:7.3")
    assert world.asked == ["resolve debian:6.1", "resolve debian:7.3"]


def test_a_kernel_that_lacks_what_a_guest_needs_is_not_booted(world: World) -> None:
    world.faults = ["CONFIG_VIRTIO_NET (the NICs)", "CONFIG_BPF_SYSCALL (programs and maps)"]
    with pytest.raises(KernelNotFound) as caught:
        Lab().recipe("path:/bz", Topology())
    assert caught.value.message == (
        "no guest comes up on path:/bz (6.1.0), which was built without "
        "CONFIG_VIRTIO_NET (the NICs), CONFIG_BPF_SYSCALL (programs and maps)"
    )
    assert world.asked == ["resolve path:/bz"]


def test_a_kernel_for_fewer_cpus_is_not_booted(world: World) -> None:
    with pytest.raises(UserError, match="8 CPUs, not 9"):
        Lab().recipe("path:/bz", Topology(cpus=8, spare_cpus=1))
    assert world.asked == ["resolve path:/bz"]


def test_a_slow_kernel_has_longer_deadlines(world: World) -> None:
    lab = Lab()
    assert lab.recipe("path:/bz", Topology()).accel.pace == 3 * lab.accel.pace


@pytest.mark.parametrize(
    ("snapshots", "how", "threads"),
    [
        (True, {}, "multi"),
        (True, {"nics": 2, "pluggable": True}, "single"),
        (True, {"spare_cpus": 1, "pluggable": True}, "multi"),
        (True, {"launcher": "virtme-ng"}, "single"),
        (False, {}, "single"),
    ],
)
def test_how_a_guest_is_run(
    world: World, snapshots: bool, how: dict[str, Any], threads: str
) -> None:
    lab = Lab(snapshots=snapshots)
    assert lab.threads_of(Topology(**how)) == threads
    unplugs = threads != "single"
    assert lab.unplugs_cpus(Topology(**how)) is unplugs


def test_missing_drivers_are_named(world: World) -> None:
    world.missing = ("virtio_net", "veth", "virtio_console")
    with pytest.raises(KernelNotFound) as caught:
        Lab().recipe("path:/bz", Topology())
    assert caught.value.message == (
        "path:/bz (6.1.0) has no virtio_net, virtio_console: neither built in nor as modules in "
        "/lib/modules/6.1.0"
    )
    assert "build them in" in caught.value.remedy
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("missing", [(), ("veth",), ("sch_ingress", "cls_bpf")])
def test_a_guest_comes_up_without_other_modules(world: World, missing: tuple[str, ...]) -> None:
    world.missing = missing
    assert Lab().recipe("path:/bz", Topology()).initramfs.missing == missing


def test_of_a_kernel_without_modules_nothing_is_known(world: World) -> None:
    """Its drivers may be built in: booting it tells."""
    world.missing, world.modules = ("virtio_net",), None
    Lab().recipe("path:/bz", Topology())


# Guests


def test_a_guest_is_a_clone(world: World) -> None:
    Lab().open("debian:6.1", Topology())
    assert world.asked[1:] == ["snapshot", "machine"]
    assert world.closed == 0


def test_a_guest_without_snapshots_is_booted(world: World) -> None:
    said: list[str] = []
    Lab(snapshots=False, say=said.append).open("debian:6.1", Topology())
    assert world.asked[1:] == ["machine"]
    assert said == ["booting 6.1.0"]
    assert world.closed == 0


AGAIN = ["snapshot", "machine", "take away /s", "snapshot", "machine"]


DIED = BootFailed("x", phase="agent", console="", crashed=True)


@pytest.mark.parametrize("error", [QemuFailed("x"), AgentLost("x"), DIED])
def test_a_snapshot_that_does_not_live_is_made_anew_once(world: World, error: LabError) -> None:
    world.uptime = [error]
    Lab().open("debian:6.1", Topology())
    assert world.asked[1:] == AGAIN
    assert world.closed == 1
    world.asked.clear()
    world.uptime = [error, error]
    with pytest.raises(type(error)):
        Lab().open("debian:6.1", Topology())
    assert world.asked[1:] == AGAIN
    assert world.closed == 3


def test_a_snapshot_that_does_not_load_is_made_anew_once(world: World) -> None:
    world.clones = [QemuFailed("x")]
    Lab().open("debian:6.1", Topology())
    assert world.asked[1:] == ["snapshot", "take away /s", "snapshot", "machine"]


@pytest.mark.parametrize("error", [GuestError("x", errno=2), CacheError("x"), KeyboardInterrupt()])
def test_what_a_new_snapshot_cannot_help_is_passed_on(world: World, error: BaseException) -> None:
    world.uptime = [error]
    with pytest.raises(type(error)):
        Lab().open("debian:6.1", Topology())
    assert world.asked[1:] == ["snapshot", "machine"]
    assert world.closed == 1


def test_a_clock_that_is_off_is_booted_anew_some_times(world: World) -> None:
    world.prepare = [ClockOff("x")] * (BOOTS - 1)
    Lab().open("debian:6.1", Topology())
    assert world.asked[1:] == ["snapshot"] * BOOTS + ["machine"]
    world.prepare = [ClockOff("x")] * BOOTS
    with pytest.raises(ClockOff):
        Lab().open("debian:6.1", Topology())


@pytest.mark.parametrize("where", ["boot", "prepare"])
def test_a_boot_that_fails_leaves_no_machine(world: World, where: str) -> None:
    error = BootFailed("x", phase="none", console="")
    if where == "boot":
        world.boot = error
    else:
        world.prepare = [error]
    with pytest.raises(BootFailed):
        Lab(snapshots=False).open("debian:6.1", Topology())
    assert world.closed == 1


def test_a_lab_without_qemu(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise ToolMissing("no QEMU")

    monkeypatch.setattr(harness.lab, "find_qemu", none)
    lab = Lab()
    with pytest.raises(ToolMissing):
        lab.open("debian:6.1", Topology())
