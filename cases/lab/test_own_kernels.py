"""Kernels of one's own boot: from package files, and a vmlinux."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import harness.kernels.lock
from harness.errors import NotLocked
from harness.guest import MODULES
from harness.kernels import plan_modules, prune, resolve
from harness.kernels.examine import options_in
from harness.kernels.lock import read_lock, write_lock
from harness.lab import Lab
from harness.machine.topology import Topology
from harness.signs import SIGNS, shows, why_not_there
from harness.tests.fakes import make_deb

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "/proc/sys/kernel/osrelease"


def test_a_kernel_from_package_files(a_kernel: str, tmp_path: Path) -> None:
    known = Lab().kernel(a_kernel)
    assert known.modules is not None
    assert known.config is not None
    home = f"usr/lib/modules/{known.release}"
    image = {
        f"{home}/vmlinuz": known.vmlinuz.read_bytes(),
        f"{home}/config": known.config.read_bytes(),
    }
    needed = [*plan_modules(known, MODULES).files, known.modules / "modules.builtin"]
    modules = {f"{home}/{path.relative_to(known.modules)}": path.read_bytes() for path in needed}
    for name, members in (("image.deb", image), ("modules.deb", modules)):
        (tmp_path / name).write_bytes(make_deb(members))
    spec = f"deb:{tmp_path / 'image.deb'},{tmp_path / 'modules.deb'}"
    try:
        lab = Lab()
        assert lab.recipe(spec, Topology()).digest() == lab.recipe(a_kernel, Topology()).digest()
        with lab.open(spec, Topology()) as guest:
            assert guest.read(RELEASE).strip() == known.release
    finally:
        prune([spec])


def test_a_kernel_that_tells_nothing_shows_what_it_was_built_with(
    a_kernel: str, tmp_path: Path
) -> None:
    """Its file alone, which has no configuration in it: a copy, with none beside it.

    A byte more makes it a kernel of its own, which no test beside this one takes out of the cache.
    """
    known = Lab().kernel(a_kernel)
    options = options_in(known)
    assert options is not None
    built = {name: options.get(name, "n") != "n" for name in SIGNS}
    file = tmp_path / "bzImage"
    file.write_bytes(known.vmlinuz.read_bytes() + b"\1")
    spec = f"path:{file},modules={known.modules}"
    try:
        with Lab(snapshots=False).open(spec, Topology()) as guest:
            assert options_in(guest.machine.kernel) is None
            assert {name: shows(guest, name) for name in built} == built
            assert why_not_there(guest, ["NUMA", "NET_NS"]) is None
            assert why_not_there(guest, ["FAILSLAB", "NUMA", "SMP"]) == (
                f"{known.release} shows no sign of CONFIG_FAILSLAB, CONFIG_SMP; "
                f"config-{known.release} beside it would tell"
            )
    finally:
        prune([spec])


def test_a_locked_kernel_runs_and_another_in_its_place_does_not(
    a_kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Lab().kernel(a_kernel)
    file = tmp_path / "bzImage"
    file.write_bytes(known.vmlinuz.read_bytes())
    spec = f"path:{file},modules={known.modules}"
    monkeypatch.setattr(harness.kernels.lock, "FILE", tmp_path / "kernels.lock")
    write_lock({spec: resolve(spec)})
    try:
        with Lab(lock=read_lock()).open(spec, Topology()) as guest:
            assert guest.read(RELEASE).strip() == known.release
    finally:
        prune([spec])
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(NotLocked, match=r"another kernel than it is locked to: sha256 \w+, not "):
        Lab(lock=read_lock()).open(spec, Topology())
    prune([spec])


def test_a_vmlinux(a_kernel: str) -> None:
    known = Lab().kernel(a_kernel)
    if known.boot == known.vmlinuz:
        pytest.skip(f"{a_kernel} has no PVH note")
    lab = Lab(snapshots=False)
    with lab.open(f"path:{known.boot},modules={known.modules}", Topology(cpus=2)) as guest:
        assert guest.read(RELEASE).strip() == known.release
        assert guest.machine.kernel.numbers == known.numbers
