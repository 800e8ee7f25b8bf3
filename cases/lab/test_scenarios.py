"""What a scenario says is done in a guest, and what it expects is seen to be missed there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from harness.guest import Guest
from harness.paths import REPO
from harness.scenario.again import differences, read_run
from harness.scenario.load import load_scenario
from harness.scenario.runner import Outcome, run_scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.lab import Lab

DROPS_LONG = """
SEC("xdp/cpumap")
int drop_long(struct xdp_md *ctx)
{
	return ctx->data_end - ctx->data > 100 ? XDP_DROP : XDP_PASS;
}
"""
HANDS_ON = """
struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8);
} cpus SEC(".maps");

SEC("xdp/cpumap")
int hand_on(struct xdp_md *ctx)
{
	return bpf_redirect_map(&cpus, 3, 0);
}
"""


@pytest.fixture
def run(workshop: Lab, a_kernel: str, tmp_path: Path) -> Callable[..., Outcome]:
    """Return a way to run a scenario from its file; what is kept of it goes beside it."""

    def run(**keys: Any) -> Outcome:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(keys, sort_keys=False))
        return run_scenario(workshop, load_scenario(path), a_kernel, root=tmp_path / "kept")

    return run


def compile_bpf(path: Path, source: str) -> None:
    """Compile a BPF program as the README says."""
    command = ["clang", "-target", "bpf", "-g", "-O2", "-I", str(REPO / "guest" / "bpf")]
    headers = next(Path("/usr/include").glob("*-linux-gnu"))
    license_ = 'char LICENSE[] SEC("license") = "GPL";\n'
    command += ["-I", str(headers), "-x", "c", "-", "-c", "-o", str(path)]
    subprocess.run(command, input=source + license_, text=True, check=True)


def example_of_the_readme() -> str:
    found = re.search(r'```c\n(#include "steer.h".*?)```', (REPO / "README.md").read_text(), re.S)
    assert found
    return found[1]


def test_steering_and_entries_by_objects_of_ones_own(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    compile_bpf(tmp_path / "steer.bpf.o", example_of_the_readme())  # by port & 3
    compile_bpf(tmp_path / "long.bpf.o", '#include "tag.h"\n' + DROPS_LONG)
    compile_bpf(tmp_path / "onward.bpf.o", '#include "tag.h"\n' + HANDS_ON)
    keys = {
        "entries": [
            {"cpu": 1, "qsize": 1024, "program": {"object": "long.bpf.o"}},
            {"cpu": 2, "qsize": 1024, "program": {"object": "onward.bpf.o", "onward": [3]}},
            {"cpu": 3, "qsize": 1024},
        ],
        "steer": {"object": "steer.bpf.o"},
        "socket": False,
        "traffic": [
            {"frames": 100, "destination_port": 7001},
            {"frames": 50, "destination_port": 7001, "size": 101},
            {"frames": 30, "destination_port": 7002},
            {"frames": 20, "destination_port": 7003},
            {"frames": 7, "destination_port": 7000},  # no entry
        ],
        "timeline": [
            {"at": 207, "after": "rest", "do": "replace", "cpu": 1, "qsize": 64, "program": "pass"}
        ],
        "expect": {
            "delivered": {1: 100, 3: 50},
            "prog_drop": 50,
            "prog_pass": 100,
            "prog_redirect": 30,
            "aborted": 7,
        },
    }
    outcome = run(**keys)
    assert (outcome.record.verdict, outcome.record.reasons) == ("pass", ())
    assert outcome.record.artifacts
    before = read_run(outcome.record.artifacts)
    files = {Path(path).name for path in before.recipe["files"]}
    assert files == {"steer.bpf.o", "long.bpf.o", "onward.bpf.o"}
    compile_bpf(tmp_path / "long.bpf.o", '#include "tag.h"\n' + DROPS_LONG.replace("100", "101"))
    again = run(**keys)
    assert again.record.reasons == (
        "delivered on CPU 1: expected 100 frames, found 150",
        "prog_pass: expected 100 frames, found 150",
        "prog_drop: expected 50 frames, found 0",
    )
    changed = [line for line in differences(before, again) if line.startswith("changed: file")]
    assert len(changed) == 1
    assert "long.bpf.o was" in changed[0]


def test_the_guest_is_as_the_scenario_says(run: Callable[..., Outcome]) -> None:
    outcome = run(
        cpus=3,
        memory_mib=384,
        offline=[1],
        append="cpumap_lab_says=hello",
        seed=5,
        entries=[{"cpu": 0, "qsize": 64}, {"cpu": 2, "qsize": 64}],
        steer={"by": "port", "to": [0, 2, 1], "miss": "pass"},
        traffic=[{"frames": 40, "destination_port": port} for port in (9000, 9001, 9002)],
        socket=False,
        timeline=[{"do": "update", "cpu": 3, "qsize": 8, "errno": "E2BIG"}],
        rate=20000,
        nics=[{"receive_on": 0}],  # where frames that are passed stay
        expect={"delivered": {0: 80, 2: 40}, "passed": 40, "shares": {0: 0.7}, "within": 0.05},
    )
    assert (outcome.record.verdict, outcome.record.reasons) == ("pass", ())
    assert outcome.record.artifacts
    argv = json.loads((outcome.record.artifacts / "run.json").read_text())["recipe"]["argv"]
    assert argv[argv.index("-m") + 1] == "384M"
    assert argv[argv.index("-smp") + 1] == "3"
    dmesg = (outcome.record.artifacts / "dmesg.txt").read_text()
    assert "smpboot: CPU 1 is now offline" in dmesg
    assert "cpumap_lab_says=hello" in dmesg


def test_frames_that_overtake_others_of_their_flow_are_seen(run: Callable[..., Outcome]) -> None:
    """Every other frame takes the way through the ring of a CPU that is held."""
    outcome = run(
        entries=[
            {"cpu": 1, "qsize": 64},
            {"cpu": 2, "qsize": 64, "program": {"to_cpu": 1}},
        ],
        traffic=[{"frames": 20}],
        timeline=[{"at": 0, "do": "hold", "cpu": 2}, {"do": "release", "cpu": 2}],
        expect={"delivered": {1: 20}, "in_order": True},
    )
    assert outcome.record.verdict == "fail"
    assert outcome.record.reasons[0] == "order: frame 2 of flow 0 reached CPU 1 before frame 1"


def test_a_nic_that_does_not_go_is_seen(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Guest.write

    def deaf(guest: Guest, path: str, text: str) -> None:
        if not path.endswith("/unbind"):
            write(guest, path, text)

    monkeypatch.setattr(Guest, "write", deaf)
    outcome = run(
        nics=[{}, {}],
        entries=[{"cpu": 2, "qsize": 64}],
        traffic=[{"frames": 20, "nic": 1}],
        timeline=[{"after": "rest", "do": "remove_nic", "nic": 1}],
        expect={"delivered": 20},
    )
    assert outcome.record.reasons == ("timeline[0]: remove_nic: eth1 is still there",)
