"""One suite for all that boots a guest: a clone of a snapshot, a cold boot, virtme-ng.

Nothing above the face of a machine knows which it is, so the same tests hold for each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from typing import TYPE_CHECKING

import pytest
from lab_tools import Cache, wait_until

import harness.reset
from harness.agent.bpf import OBJ_PIN, CpuMap, attach_xdp, bpf, load_verdict
from harness.agent.netlink import set_xdp
from harness.agent.syscalls import Buffer
from harness.agent.veth import make_veth
from harness.casework import Casework
from harness.errors import AgentLost, BootFailed, KernelNotFound, NotReset, ToolMissing
from harness.inventory import take_inventory, watch_pools
from harness.judge import judge_error
from harness.lab import Lab
from harness.machine.topology import Launcher, Topology
from harness.machine.virtme import choose_export
from harness.trace.events import XdpAction
from harness.verdict import Verdict
from harness.vng import need_vng

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
    """Return a kernel like the one named that virtme-ng can boot here, or skip."""
    lab = Lab()
    for each in (spec, f"{spec}-amd64"):
        try:
            kernel = lab.kernel(each)
            choose_export(kernel, need_vng(kernel))
        except KernelNotFound:
            continue
        except ToolMissing as error:
            if each == spec and spec.startswith("debian:"):
                continue
            pytest.skip(str(error))
        return each
    pytest.skip(f"neither {spec} nor its standard flavour has 9p")


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
    assert [row.delivered for row in case.close().per_cpu] == [0, frames]
    return case.finish()


def soil(guest: Guest) -> None:
    """Leave something of each kind behind."""
    calls = guest.calls
    front = struct.pack("<QI", 0, CpuMap(calls, max_entries=4).fd)
    bpf(calls, OBJ_PIN, front, {0: Buffer(b"/sys/fs/bpf/mine\0")}).must("BPF_OBJ_PIN")
    set_xdp(calls, guest.ifindex["lo"], load_verdict(calls, XdpAction.PASS), "generic")
    attach_xdp(calls, load_verdict(calls, XdpAction.PASS), guest.ifindex["eth0"], "native")
    make_veth(calls, "mine", mac="52:54:00:63:70:99")
    guest.write("/sys/class/net/eth0/mtu", "1400")
    guest.write("/proc/sys/net/ipv4/ip_forward", "1")
    guest.write("/sys/devices/system/cpu/cpu1/online", "0")
    guest.tracer.stop()
    guest.tracer.enable("xdp/mem_disconnect")
    calls.must("mount", b"mine\0", b"/tmp\0", b"tmpfs\0", 0, 0)
    guest.spawn("pause")


SOILED = ("BPF link", "CPU", "interface", "map", "mount", "pinned", "program", "sysctl", "task",
          "tracing")  # fmt: skip
"""What an inventory says of all that, by the first word."""


def test_it_comes_up_and_its_nics_take_frames(launch: Launch, module_cache: Cache) -> None:
    release = launch.lab.kernel(launch.spec).release
    with launch.open() as guest:
        assert guest.read("/proc/sys/kernel/osrelease").strip() == release
        assert "Linux version" in guest.dmesg()
        assert guest.machine.qmp("query-status")["running"]
        assert steer(guest, 200).verdict is Verdict.PASS


def test_the_next_guest_knows_nothing_of_the_last(launch: Launch, module_cache: Cache) -> None:
    with launch.open() as guest:
        watch_pools(guest.calls)
        before = take_inventory(guest.calls)
        soil(guest)
        soiled = before.differences(take_inventory(guest.calls))
        assert [kind for kind in SOILED if not any(s.startswith(kind) for s in soiled)] == []
    with launch.open() as guest:
        watch_pools(guest.calls)
        assert before.differences(take_inventory(guest.calls)) == []
        assert steer(guest, 100).verdict is Verdict.PASS


def test_a_guest_that_is_not_as_it_was_is_lent_to_nobody(
    launch: Launch, module_cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset that puts nothing back is found out, by the name of each thing."""
    if launch.topology.launcher != "virtme-ng":
        pytest.skip("each guest is another")
    monkeypatch.setattr(harness.reset, "put_back", lambda *_: None)
    monkeypatch.setattr(harness.reset, "FEW", 100)
    with launch.open() as guest:
        watch_pools(guest.calls)
        before = take_inventory(guest.calls)
        soil(guest)
        with pytest.raises(NotReset, match="the run left behind: ") as caught:
            harness.reset.reset(guest.calls, before, deadline_s=1)
        # what dies with the agent needs no putting back
        alive = [kind for kind in SOILED if kind not in ("BPF link", "task")]
        said = caught.value.message.replace("behind: ", "; ")
        assert [kind for kind in alive if f"; {kind} " not in said] == []
        assert judge_error(caught.value, []).verdict is Verdict.INVALID
        monkeypatch.undo()


def test_a_panic_is_a_crash(launch: Launch, module_cache: Cache) -> None:
    with launch.open() as guest:
        case = Casework(guest)
        with pytest.raises(AgentLost) as lost:
            guest.write("/proc/sysrq-trigger", "c")
        judgement = case.explain(lost.value)
    assert judgement.verdict is Verdict.CRASH
    assert "sysrq triggered crash" in judgement.reasons[0]


def test_a_kernel_that_cannot_boot_is_told(launch: Launch, module_cache: Cache) -> None:
    with pytest.raises(BootFailed) as caught:
        launch.open("panic_on_warn=1 init=/nope rdinit=/nope root=/dev/nope rootfstype=nope")
    error = caught.value
    assert error.crashed
    assert "Kernel panic - not syncing" in error.message
    assert "the last phase reached is 'kernel'" in error.message
    assert judge_error(error, []).verdict is Verdict.CRASH


def test_a_kernel_without_9p_is_refused_before_it_boots(a_kernel: str, cache: Cache) -> None:
    kernel = Lab().kernel(a_kernel)
    if "cloud" not in kernel.release:
        pytest.skip(f"{kernel.release} has 9p")
    with pytest.raises((KernelNotFound, ToolMissing)) as caught:
        Lab().open(a_kernel, Topology(launcher="virtme-ng"))
    assert f"virtme-ng cannot boot {a_kernel} ({kernel.release})" in caught.value.message
    assert f"{a_kernel}-amd64" in caught.value.remedy
    assert cache.clean()
