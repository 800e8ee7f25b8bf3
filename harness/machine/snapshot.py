"""Boot once, freeze, and give every case its own running copy.

A snapshot is a directory: the RAM of a stopped guest (`ram`, sparse), its device state (`state`)
and `meta.json`. Clones map the RAM privately, so many can run from one. The directory's name is the
digest of all that went in; what its files no longer match is rebuilt, never trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import CacheError, LabError, QemuFailed
from harness.landing import disk_bytes, land_directory, sweep, take_away, write_atomically
from harness.machine.machine import Machine, Recipe
from harness.paths import cache_dir

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_BYTES = 6 << 30
SAVE_S = 60.0
LOAD_S = 60.0
FREEZE_S = 60.0
FROZEN_BYTES = 1 << 30
"""Of a guest's RAM that is not zero, before it is packed."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class Snapshot:
    """A frozen guest.

    Attributes:
        directory: where its files are.
        prepared: what `prepare` returned when the template was made ready (JSON data).
        boot_s: seconds that the template took to boot.
    """

    directory: Path
    prepared: dict[str, Any]
    boot_s: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot in the cache, as a user sees it.

    Attributes:
        kernel: release of the kernel that was frozen; "?" if the snapshot is damaged.
        guest: CPUs, memory and what was added to the kernel command line, for people.
        qemu: version of the QEMU that froze it.
        size: bytes on disk.
        used: when it was cloned last, in seconds since the epoch.
        directory: where it is.
    """

    kernel: str
    guest: str
    qemu: str
    size: int
    used: float
    directory: Path


def list_snapshots() -> list[Kept]:
    """Return the snapshots in the cache, the one not used for longest first."""
    root = cache_dir("snapshots")
    kept = [_describe(path) for path in root.glob("[!.]*") if path.is_dir()]
    return sorted(kept, key=lambda snapshot: snapshot.used)


def _describe(path: Path) -> Kept:
    try:
        about = json.loads((path / "meta.json").read_text())["about"]
        told = (about["kernel"], about["guest"], about["qemu"])
    except (OSError, ValueError, KeyError, TypeError):
        told = ("?", "?", "?")
    return Kept(*told, size=disk_bytes(path), used=_used(path), directory=path)


def snapshot_of(
    recipe: Recipe, prepare: Callable[[Machine], dict[str, Any]], *, salt: str
) -> Snapshot:
    """Return the snapshot of a recipe, booting it if there is none or it is damaged.

    Args:
        recipe: what to boot.
        prepare: makes the booted guest ready; what it returns is kept with the snapshot.
        salt: stands for `prepare` in the digest.

    Raises:
        BootFailed: the guest does not come up.
        CacheError: no space, or another builder never ended.
        QemuFailed: QEMU died, or does not save.
    """
    digest = hashlib.sha256(f"{recipe.digest()} {salt}".encode()).hexdigest()[:24]
    directory = cache_dir("snapshots") / digest
    found = _load(directory)
    if found is None:
        if directory.is_dir():
            take_away(directory)
        land_directory(directory, lambda part: _build(part, recipe, prepare))
        found = _load(directory)
        if found is None:
            raise QemuFailed(
                f"the snapshot {directory} does not match its own checksums right after it was "
                "made",
                remedy="check the disk that holds CPUMAP_LAB_CACHE, or use --no-snapshot",
            )
        prune(LIMIT_BYTES, spare=directory)
    with contextlib.suppress(OSError):  # not ours, or pruned by another just now: `clone` tells
        os.utime(directory / "meta.json")  # the time of use, for `prune`
    return found


def clone(recipe: Recipe, snapshot: Snapshot) -> Machine:
    """Return a running copy of the snapshot's guest.

    Raises:
        QemuFailed: the snapshot cannot be loaded.
    """
    machine = Machine(recipe, ram=snapshot.directory / "ram", incoming=True)
    return _resume(machine, _uri(recipe, "in", snapshot.directory / "state"))


def _resume(machine: Machine, uri: str) -> Machine:
    try:
        _ignore_shared(machine)
        # A NIC that has moved makes its guest announce it: frames of its own, and rtnl taken in a
        # work that virtnet_close, with rtnl held, waits for (drivers/net/virtio_net.c, 6.12 to
        # 7.3). The device has `guest_announce=off` as well: with it on and no rounds, QEMU
        # 10.0 dies when the guest resets the NIC (virtio_net_reset takes the timer that
        # virtio_net_post_load_device has freed).
        machine.qmp("migrate-set-parameters", **{"announce-rounds": 0})
        machine.qmp("migrate-incoming", uri=uri)
        _settle(machine, LOAD_S)
    except BaseException:
        machine.close()
        raise
    return machine


def freeze(machine: Machine, path: Path) -> None:
    """Save a guest as it is at this moment, packed by gzip; it stays stopped. See `thaw`.

    Raises:
        QemuFailed: QEMU has gone, does not save, or the guest takes more than `FROZEN_BYTES`.
    """
    machine.qmp("stop")
    _ignore_shared(machine)
    machine.qmp("migrate", uri=f"exec:gzip -1 >{shlex.quote(str(path))}")
    _settle(machine, FREEZE_S, most=FROZEN_BYTES)


def thaw(recipe: Recipe, path: Path) -> Machine:
    """Return a running copy of a guest that `freeze` saved; its recipe must be the same.

    It does not run if it had ended itself: only a reset would bring it on.

    Raises:
        QemuFailed: it cannot be loaded.
    """
    return _resume(Machine(recipe, incoming=True), f"exec:gzip -dc {shlex.quote(str(path))}")


def prune(limit: int = 0, *, spare: Path | None = None) -> list[Path]:
    """Remove the snapshots not used for longest until all take `limit` bytes of disk or less.

    Returns:
        The directories removed.
    """
    root = cache_dir("snapshots")
    sweep(root)
    # what begins with a dot is being built, or taken away, by another
    entries = sorted((_used(path), path) for path in root.glob("[!.]*") if path.is_dir())
    sizes = {path: disk_bytes(path) for _, path in entries}
    total, gone = sum(sizes.values()), []
    for _, path in entries:
        if total <= limit:
            break
        if path != spare:
            take_away(path)
            total -= sizes[path]
            gone.append(path)
    return gone


def _build(part: Path, recipe: Recipe, prepare: Callable[[Machine], dict[str, Any]]) -> None:
    start = time.monotonic()
    with Machine(recipe, ram=part / "ram", share_ram=True) as machine:
        try:
            machine.wait_boot()
            boot_s = time.monotonic() - start
            with machine.settling():
                prepared = prepare(machine)
                machine.qmp("stop")
                _ignore_shared(machine)
                machine.qmp("migrate", uri=_uri(recipe, "out", part / "state"))
                _settle(machine, SAVE_S)
        except LabError as error:
            if full := machine.no_room():
                raise full from error
            raise
    meta = {
        "about": _about(recipe),
        "prepared": prepared,
        "boot_s": round(boot_s, 3),
        "files": {name: _checksum(part / name) for name in ("ram", "state")},
    }
    meta = json.loads(json.dumps(meta))
    (part / "meta.json").write_text(json.dumps({**meta, "seal": _seal(meta)}))


def _seal(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _about(recipe: Recipe) -> dict[str, str]:
    topology = recipe.topology
    guest = [f"{topology.cpus} CPUs", f"{topology.memory_mib} MiB"]
    guest += [f"{topology.spare_cpus} spare CPUs"] if topology.spare_cpus else []
    guest += [f"{topology.nics} NICs"] if topology.nics != 1 else []
    guest += ["pluggable NICs"] if topology.pluggable else []
    guest += [f"{topology.nodes} NUMA nodes"] if topology.nodes != 1 else []
    guest += [topology.append] if topology.append else []
    return {
        "kernel": recipe.kernel.release,
        "guest": ", ".join(guest),
        "qemu": ".".join(map(str, recipe.qemu.version)),
    }


def _ignore_shared(machine: Machine) -> None:
    capability = {"capability": "x-ignore-shared", "state": True}
    machine.qmp("migrate-set-capabilities", capabilities=[capability])


def _uri(recipe: Recipe, way: str, path: Path) -> str:
    if recipe.qemu.version >= (8, 2, 0):
        return f"file:{path}"
    return f"exec:cat >'{path}'" if way == "out" else f"exec:cat '{path}'"


def _settle(machine: Machine, limit_s: float, most: int | None = None) -> None:
    deadline = time.monotonic() + limit_s * machine.recipe.accel.pace
    while time.monotonic() < deadline:
        now = machine.qmp("query-migrate")
        if now.get("status") == "completed":
            if machine.qmp("query-status")["status"] == "paused":
                machine.qmp("cont")
            return
        if now.get("status") == "failed":
            raise QemuFailed(f"the guest's state was not moved: {now.get('error-desc', now)}")
        if most is not None and now.get("ram", {}).get("transferred", 0) > most:
            machine.qmp("migrate_cancel")
            raise QemuFailed(f"the guest takes more than {most >> 20} MiB: it is not kept")
        time.sleep(0.002)
    raise QemuFailed(f"the guest's state was not moved within {limit_s:.0f} s")


def _load(directory: Path) -> Snapshot | None:
    """Return the snapshot if its files are what they were when it landed."""
    try:
        meta = json.loads((directory / "meta.json").read_text())
        if meta.pop("seal") != _seal(meta):
            return None
        files = meta["files"]
        seen = {name: _identity(directory / name) for name in files}
        # Hashing the RAM takes a tenth of a second: once per boot of this machine and file state
        vouched = directory / "vouched.json"
        stamp = json.dumps([Path("/proc/sys/kernel/random/boot_id").read_text(), seen])
        if not vouched.is_file() or vouched.read_text() != stamp:
            if any(_checksum(directory / name) != known for name, known in files.items()):
                return None
            with contextlib.suppress(CacheError):  # a full disk does not make it bad
                write_atomically(vouched, stamp.encode())
        return Snapshot(directory, meta["prepared"], meta["boot_s"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _identity(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _checksum(path: Path) -> str:
    """Return a hash of a sparse file's data and of where in the file it lies."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    zeros = bytes(CHUNK)
    with path.open("rb") as file:
        at = 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: no data behind here
                break
            at -= at % CHUNK  # where a file system puts its holes is its own affair
            block = os.pread(file.fileno(), CHUNK, at)
            if block != zeros[: len(block)]:
                digest.update(at.to_bytes(8, "little") + block)
            at += CHUNK
    return digest.hexdigest()


def _used(path: Path) -> float:
    try:
        return (path / "meta.json").stat().st_mtime
    except OSError:
        return 0.0
