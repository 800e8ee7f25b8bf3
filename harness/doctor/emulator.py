"""What guests run on: QEMU, its accelerator, and what starts it."""

from __future__ import annotations

import os
import re
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from harness.doctor.item import Item, State, succeeds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.apt import Package

# Rooms that need libarchive are imported where they are used: without it the doctor still speaks.

KVM_DEVICE = Path("/dev/kvm")
PACKAGE = "qemu-system-x86"
ARCHIVE_S = 20.0
SLOW = 2.0
"""How many times slower than the reference machine deserves a word."""
ORIGINS = {
    "CPUMAP_LAB_QEMU": "CPUMAP_LAB_QEMU names it",
    "cache": "`cpumap-lab qemu fetch` brought it",
    "path": "it is on PATH",
}


def check_qemu() -> Iterator[Item]:
    """Say which QEMU is used, and how its version lets guests run."""
    from harness.machine.accel import MTTCG_SINCE  # noqa: PLC0415
    from harness.machine.qemu import find_qemu  # noqa: PLC0415

    qemu = find_qemu()
    version, since = (".".join(map(str, v)) for v in (qemu.version, MTTCG_SINCE))
    what = f"{version} ({ORIGINS[qemu.origin]})"
    if qemu.version >= MTTCG_SINCE:
        yield Item("QEMU", State.OK, f"{what}; under TCG each guest CPU has a thread of its own")
    else:
        seen = (
            f"{what}; under TCG all guest CPUs share one thread, for before {since} several "
            "break the static keys of 6.x kernels now and then: guests use one core"
        )
        yield Item("QEMU", State.WARN, seen, "run `cpumap-lab qemu fetch`")
    yield _in_archive(qemu.version_string)


def _in_archive(version_string: str) -> Item:
    """Say whether the archive has a newer QEMU, as far as its indices are here and fresh."""
    from harness.apt import FRESH, Archive, own_codename  # noqa: PLC0415
    from harness.deb import version_key  # noqa: PLC0415

    name = "QEMU in the archive"
    archive = Archive()
    age = archive.age()
    if age >= FRESH:
        seen = "not looked up: " + (
            "the package indices were never brought"
            if age == float("inf")
            else f"the package indices are {age / 3600:.0f} h old"
        )
        return Item(name, State.OK, seen, "`cpumap-lab kernels list` brings them")
    found: list[Package] = []
    # The archive's lock may be held by a long download: the doctor does not wait for it
    asking = threading.Thread(target=lambda: found.extend(archive.packages(PACKAGE)), daemon=True)
    asking.start()
    asking.join(ARCHIVE_S)
    codename = own_codename()
    suites = {codename + kind for kind in ("", "-updates", "-security", "-backports")}
    offered = [package for package in found if suites & set(package.suites)]
    if not offered:
        seen = f"none for {codename or 'this system'}, or the archive is busy"
        return Item(name, State.OK, seen)
    newest = max(offered, key=lambda package: version_key(package.version))
    seen = f"{newest.version} ({', '.join(newest.suites)})"
    own = re.search(r"\(Debian (\S+?)\)", version_string)
    if own is None:
        return Item(name, State.OK, seen)
    if version_key(newest.version) <= version_key(own[1]):
        return Item(name, State.OK, f"{seen}: not newer")
    return Item(name, State.WARN, f"{seen}: newer than {own[1]}", "run `cpumap-lab qemu fetch`")


def check_accel() -> Iterator[Item]:
    """Say how guest code is run, and why so."""
    from harness.machine.accel import choose_accel  # noqa: PLC0415
    from harness.machine.qemu import find_qemu  # noqa: PLC0415

    accel = choose_accel(find_qemu())
    seen = f"{accel.argument}: {accel.why}"
    if accel.pace < SLOW:
        yield Item("accelerator", State.OK, seen)
        return
    slow = f"{seen}; {accel.pace:.1f} times slower than usual, so deadlines are that much longer"
    remedy = "run fewer guests at once, or delete accel/ in the cache to measure on an idle host"
    yield Item("accelerator", State.WARN, slow, remedy)


def check_kvm() -> Iterator[Item]:
    """Say what /dev/kvm is; what it is good for, the accelerator's probe says."""
    if not KVM_DEVICE.exists():
        seen = "absent: guests run under TCG, at a fraction of the speed"
        yield Item("/dev/kvm", State.OK, seen, "where there is hardware for it, load kvm")
    elif os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        seen = "can be opened; whether it is any good, the accelerator's probe tells"
        yield Item("/dev/kvm", State.OK, seen)
    else:
        seen = "there, and not accessible: guests run under TCG, at a fraction of the speed"
        yield Item("/dev/kvm", State.WARN, seen, "add yourself to the group kvm and log in again")


def check_namespaces() -> Iterator[Item]:
    """Make a user namespace with a network in it."""
    name = "user namespaces"
    good, said = succeeds("unshare", "--user", "--map-root-user", "--net", "true")
    if good:
        yield Item(name, State.OK, "can be made, with a network of their own")
        return
    remedy = (
        "sysctl user.max_user_namespaces=10000; on Debian kernel.unprivileged_userns_clone=1, on "
        "Ubuntu kernel.apparmor_restrict_unprivileged_userns=0"
    )
    seen = f"cannot be made ({said}): no tap devices without root; the socket injector needs none"
    yield Item(name, State.WARN, seen, remedy)


def check_util_linux() -> Iterator[Item]:
    """Look for the programs that hold QEMU and apt."""
    for program, why in (
        ("setpriv", "ends QEMU with the harness"),
        ("flock", "keeps two apts apart"),
    ):
        found = shutil.which(program)
        if found:
            yield Item(program, State.OK, found)
        else:
            yield Item(program, State.MISSING, f"none; it {why}", "install util-linux")
