"""Keys that are right by themselves and wrong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.scenario.objects import find_fault
from harness.tests.test_scenario_load import GOOD, REPO, load, only_fault

if TYPE_CHECKING:
    from pathlib import Path

BUILT = REPO / "build" / "guest"
HOLD = "{do: hold, cpu: 2}"


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("timeline: [{do: update, cpu: 2}]", "timeline[0].do: `update` needs the key `qsize`"),
        ("timeline: [{do: delete}]", "timeline[0].do: `delete` needs the key `cpu`"),
        ("timeline: [{do: detach, cpu: 0, after: rest}]", "timeline[0].cpu: `detach` has no use"),
        ("timeline: [{do: delete, cpu: 2, qsize: 3}]", "timeline[0].qsize: `delete` has no use"),
        ("timeline: [{do: delete, cpu: 2, at: 4001}]", "there are 4000 frames in all"),
        (
            "timeline: [{do: wait, at: 9}, {do: wait, at: 8}]",
            "timeline[1].at: a step before comes after 9 frames",
        ),
        ("timeline: [{do: close}]", "comes after all frames and `after: offered` or `rest`"),
        ("timeline: [{do: detach, at: 5, after: rest}]", "comes after all frames"),
        ("timeline: [{do: close, after: rest}, {do: wait}]", "nothing can follow `close`"),
        ("timeline: [{do: wait, seconds: 1, at: 3}]", "timeline[0].at: either `seconds` or this"),
        (f"timeline: [{HOLD}]", "timeline[0].cpu: no step releases CPU 2"),
        ("timeline: [{do: release, cpu: 2}]", "timeline[0].cpu: CPU 2 is not held here"),
        (f"timeline: [{HOLD}, {HOLD}, {{do: release, cpu: 2}}]", "CPU 2 is held already"),
        (
            f"timeline: [{HOLD}, {{do: wait, after: rest}}, {{do: release, cpu: 2}}]",
            "nothing comes to rest while CPU 2 is held",
        ),
        ("timeline: [{do: replace, cpu: 3, qsize: 8}]", "CPU 3 has no entry to replace"),
        ("timeline: [{do: relase, cpu: 3}]", "did you mean `release`?"),
        ("timeline: [{do: delete, cpu: 3, errno: EEXISTS}]", "the name of an errno, such as"),
        ("timeline: [{do: remove_nic}]", "timeline[0].do: `remove_nic` needs the key `nic`"),
        ("timeline: [{do: remove_nic, nic: 0}]", "timeline[0].do: frames may be on their way"),
        ("timeline: [{do: remove_nic, nic: 1, after: rest}]", "timeline[0].nic: there is no NIC 1"),
        (
            "timeline: [{do: remove_nic, nic: 0, after: rest, at: 3999}]",
            "timeline[0].nic: frames go to NIC 0 while it is away",
        ),
        ("nics: [{receive_on: 4}]", "nics[0].receive_on: there is no CPU 4"),
        ("nics: [{queues: 5}]", "nics[0].queues: there are only 4 CPUs"),
        ("nics: [{queues: 2, receive_on: 1}]", "its 2 queues are received on as many CPUs"),
        ("nics: []", "nics: found an empty list"),
        ("nodes: 3\nmemory_mib: 300", "nodes: 3 nodes cannot share `cpus: 4` equally"),
        ("timeline: [{do: plug}]", "timeline[0].do: `plug` needs the key `cpu` or `nic`"),
        ("timeline: [{do: plug, cpu: 3}]", "timeline[0].cpu: CPU 3 is no spare one"),
        ("spare_cpus: 1\ntimeline: [{do: unplug, cpu: 4}]", "CPU 4 is out already"),
        ("spare_cpus: 61", "spare_cpus: 65 CPUs with `cpus`; a guest has 64 at most"),
        ("spare_cpus: 1\nnodes: 2", "spare_cpus: spare CPUs are of no NUMA node"),
        ("timeline: [{do: unplug, nic: 0}]", "timeline[0].do: frames may be on their way"),
        (
            "timeline: [{do: unplug, nic: 0, after: offered}]",
            "timeline[0].after: frames that outlive their NIC are used after free",
        ),
        (
            "timeline: [{do: link_down, nic: 0, after: rest, at: 100}]",
            "timeline[0].nic: frames go to NIC 0 while it is away",
        ),
        ("timeline: [{do: link_up, nic: 0}]", "`link_up`: no `link_down` of NIC 0 before"),
        ("timeline: [{do: link_down, nic: 1}]", "timeline[0].nic: there is no NIC 1"),
        (
            "timeline: [{do: unplug, nic: 0, after: rest}, {do: link_down, nic: 0, after: rest}]",
            "timeline[1].nic: NIC 0 is away already",
        ),
        ("offline: [0]", "offline[0]: CPU 0 cannot go offline"),
        ("offline: [7]", "offline[0]: there is no CPU 7"),
        ("expect: {within: 0.1}", "expect.within: it says how far `shares` may be off"),
        ("expect: {shares: {9: 0.5}}", "expect.shares[9]: there is no CPU 9"),
        ("expect: {shares: {2: 50}}", "found the whole number `50`; allowed: a number from 0 to 1"),
        ("expect: {dropped: [5, 3]}", "expect.dropped: found a list of 2; allowed: [lowest, "),
        ("expect: {dropped: [5]}", "expect.dropped"),
        ("socket: false\nexpect: {socket: 3}", "expect.socket: there is no socket"),
        ("needs: [grow]", "did you mean `gro`?"),
        ("steer: {object: none.bpf.o}", "steer.object: there is no file "),
        ("steer: {object: /dev/zero}", "steer.object: there is no file /dev/zero"),
        (f"steer: {{object: {'x' * 999}}}", "steer.object: cannot read "),
    ],
)
def test_one_conflict(tmp_path: Path, more: str, fault: str) -> None:
    assert fault in only_fault(tmp_path, f"{GOOD}{more}\n")


@pytest.mark.parametrize(
    ("flow", "fault"),
    [
        ("{frames: 3, size: 1515}", "traffic[0].size: too large for `mtu: 1500`: it takes 1501"),
        ("{frames: 3, size: 3509}\nmtu: 9000", "of more than 3508 bytes lie in several buffers"),
        ("{frames: 3, nic: 1}", "traffic[0].nic: there is no NIC 1: the guest has NIC 0"),
        ("{frames: 3, rate: 5}\n  - {frames: 3}", "either all flows have a rate or none"),
        ("{frames: 3, speed: 2}", "traffic[0].speed: it is for captures: there is no `pcap`"),
        ("{frames: 3, loop: 2}", "traffic[0].loop: it is for captures: there is no `pcap`"),
        ("{frames: 3, rate: 5}\nrate: 9", "either all flows together have a rate, or each its own"),
        ("{frames: 3, pcap: x}\nsocket: false", "traffic[0].pcap: there is no file "),
        (f"{{frames: 3, pcap: {'x' * 999}}}\nsocket: false", "traffic[0].pcap: cannot read "),
    ],
)
def test_traffic_that_cannot_be(tmp_path: Path, flow: str, fault: str) -> None:
    assert fault in only_fault(tmp_path, GOOD.replace("frames: 4000", flow))


def test_captures_have_what_flows_are_told(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    text = GOOD.replace("frames: 4000", "{frames: 3, pcap: x, vlan: 3}\nsocket: false")
    assert "traffic[0].vlan: the frames of a pcap file have" in only_fault(tmp_path, text)
    text = GOOD.replace("frames: 4000", "{frames: 3, pcap: x, speed: 2, rate: 3}\nsocket: false")
    assert "traffic[0].rate: `speed` replays the timing of" in only_fault(tmp_path, text)
    text = GOOD.replace("frames: 4000", "{frames: 3, pcap: x, speed: 2}\nsocket: false\nrate: 3")
    assert "traffic[0].speed: either all flows together have" in only_fault(tmp_path, text)
    text = GOOD.replace("frames: 4000", "{frames: 3, pcap: x}")
    assert "set `socket: false`" in only_fault(tmp_path, text)


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        ("{}", "entries[1].program: exactly one of verdicts, to_cpu, to_nic, object is needed"),
        ("{to_cpu: 0, to_nic: 0}", "exactly one of"),
        ("{to_nic: 1}", "entries[1].program.to_nic: there is no NIC 1"),
        ("{to_nic: 0, to_map: 1}", "entries[1].program.to_map: it says which map"),
        ("{to_cpu: 0, onward: [1]}", "entries[1].program.onward: it tells of the program in"),
        ("{object: x.o}", "entries[1].program.object: there is no file "),
        (
            "passs",
            "found the text `passs`; allowed: pass, drop, aborted or tx; did you mean `pass`",
        ),
        (
            "[pass, dorp]",
            "verdicts[1]: found a list of 2; allowed: pass, drop, aborted or tx; d",
        ),
        ("{to_cpus: 1}", "did you mean `to_cpu`?"),
    ],
)
def test_programs_that_cannot_be(tmp_path: Path, program: str, fault: str) -> None:
    text = GOOD.replace("qsize: 64", f"qsize: 64, program: {program}")
    assert fault in only_fault(tmp_path, text)


def test_what_is_handed_on_is_not_waited_for_as_offered(tmp_path: Path) -> None:
    text = GOOD.replace("qsize: 64", "qsize: 64, program: {to_cpu: 0}")
    text += "timeline: [{do: wait, after: offered}]\n"
    assert "timeline[0].after: a frame that an entry hands on" in only_fault(tmp_path, text)


def test_maps_are_counted(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).maps == 1
    text = GOOD.replace("qsize: 64", "qsize: 64, program: {to_cpu: 0, to_map: 2}")
    assert load(tmp_path, text).maps == 3
    assert load(tmp_path, GOOD + "timeline: [{do: delete, cpu: 3, map: 1}]\n").maps == 2


def test_object_files(tmp_path: Path) -> None:
    assert find_fault(BUILT / "steer.bpf.o", steers=True) is None
    assert find_fault(BUILT / "steer_vlan.bpf.o", steers=True) is None
    assert find_fault(BUILT / "entry_onward.bpf.o", steers=False, redirects=True) is None
    lacking = find_fault(BUILT / "entry_onward.bpf.o", steers=True) or ""
    assert lacking.startswith("it has no map verdict_counts: a program that steers includes")
    assert "no program" in (find_fault(BUILT / "steer.bpf.o", steers=False) or "")
    assert "no map cpus" in (
        find_fault(BUILT / "entry_verdict.bpf.o", steers=False, redirects=True) or ""
    )
    assert "no BPF object file" in (find_fault(BUILT / "agent", steers=True) or "")
    broken = tmp_path / "x.o"
    content = (BUILT / "steer.bpf.o").read_bytes()
    for size in (0, 3, 40, 64, 400, len(content) // 2):
        broken.write_bytes(content[:size])
        assert "no BPF object file" in (find_fault(broken, steers=True) or "")
    broken.write_text("hello")
    assert "no BPF object file" in (find_fault(broken, steers=True) or "")
