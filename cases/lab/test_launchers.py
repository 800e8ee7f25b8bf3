"""One suite for all that boots a guest: a clone of a snapshot, a cold boot, virtme-ng.

Nothing above the face of a machine knows which it is, so the same tests hold for each.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import pytest
from lab_tools import Cache, wait_until

from harness.casework import Casework
from harness.errors import AgentLost, KernelNotFound, ToolMissing
from harness.lab import Lab
from harness.machine.topology import Launcher, Topology
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.guest import Guest
    from harness.judge import Judgement

WAYS = ("clone", "cold", "virtme-ng")
SMALL = Topology(cpus=2, memory_mib=384)
ENTRY = 1


@dataclasses.dataclass(frozen=True)
class Launch:
    """A way to come by a guest, and the kernel that it takes here."""

    lab: Lab
    spec: str
    topology: Topology

    def open(self, append: str = "") -> Guest:
        """Return a guest."""
        return self.lab.open(self.spec, dataclasses.replace(self.topology, append=append))


def kernel_of(spec: str) -> str:
    """Return a kernel like the one named that virtme-ng boots: Debian's cloud flavour has no 9p."""
    return f"{spec}-amd64" if "cloud" in Lab().kernel(spec).release else spec


@pytest.fixture(scope="module", params=WAYS)
def launch(request: pytest.FixtureRequest, a_kernel: str, module_root: Path) -> Iterator[Launch]:
    """A way to come by guests, which leaves nothing behind when all is done."""
    launcher: Launcher = "virtme-ng" if request.param == "virtme-ng" else "qemu"
    spec = kernel_of(a_kernel) if launcher == "virtme-ng" else a_kernel
    topology = dataclasses.replace(SMALL, launcher=launcher)
    with contextlib.closing(Lab(snapshots=request.param == "clone")) as lab:
        yield Launch(lab, spec, topology)
    cache = Cache(module_root)
    assert cache.runs() == []
    wait_until(lambda: cache.users() == [])


def steer(guest: Guest, frames: int) -> Judgement:
    """Steer frames into an entry, and judge the guest."""
    case = Casework(guest)
    case.steer(ENTRY)
    case.send(frames=frames)
    assert case.close().delivered == frames
    return case.finish()


def test_it_comes_up_and_its_nics_take_frames(launch: Launch, module_cache: Cache) -> None:
    release = launch.lab.kernel(launch.spec).release
    with launch.open() as guest:
        assert guest.read("/proc/sys/kernel/osrelease").strip() == release
        assert "Linux version" in guest.dmesg()
        assert guest.machine.qmp("query-status")["running"]
        assert steer(guest, 150).verdict is Verdict.PASS


def test_a_veth_pair_goes_with_the_guest_that_it_was_put_into(
    launch: Launch, module_cache: Cache
) -> None:
    with launch.open() as guest:
        guest.put_veth(0)
    with launch.open() as guest:
        assert steer(guest, 50).verdict is Verdict.PASS


def test_a_panic_is_a_crash(launch: Launch, module_cache: Cache) -> None:
    with launch.open() as guest:
        case = Casework(guest)
        with pytest.raises(AgentLost) as lost:
            guest.write("/proc/sysrq-trigger", "c")
        judgement = case.explain(lost.value)
    assert judgement.verdict is Verdict.CRASH
    assert "sysrq triggered crash" in judgement.reasons[0]


def test_a_kernel_without_9p_is_refused_before_it_boots(a_kernel: str, cache: Cache) -> None:
    kernel = Lab().kernel(a_kernel)
    if "cloud" not in kernel.release:
        pytest.skip(f"{kernel.release} has 9p")
    with pytest.raises((KernelNotFound, ToolMissing)) as caught:
        Lab().open(a_kernel, Topology(launcher="virtme-ng"))
    assert f"virtme-ng cannot boot {a_kernel} ({kernel.release})" in caught.value.message
    assert f"{a_kernel}-amd64" in caught.value.remedy
    assert cache.clean()
