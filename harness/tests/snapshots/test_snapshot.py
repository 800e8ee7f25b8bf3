"""Snapshots are taken, told apart and cloned."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import harness.machine.machine
import harness.machine.snapshot
from harness.errors import QemuFailed, ToolMissing
from harness.machine.snapshot import (
    clone,
    freeze,
    thaw,
)
from harness.machine.topology import Accel, Topology

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.machine.machine import Recipe

from harness.tests.snapshots.machines import PREPARED, FakeMachine, boots, left, take


@pytest.mark.parametrize(("version", "taken"), [((8, 1, 9), False), ((8, 2, 0), True)])
def test_nodes_need_a_qemu_that_lays_them_in_one_file(
    recipe: Recipe, version: tuple[int, int, int], taken: bool
) -> None:
    qemu = dataclasses.replace(recipe.qemu, version=version)
    dataclasses.replace(recipe, qemu=qemu)  # one node always goes
    with contextlib.nullcontext() if taken else pytest.raises(ToolMissing, match=r"8\.2\.0"):
        dataclasses.replace(recipe, qemu=qemu, topology=Topology(nodes=2))


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
