"""Every way in which a scenario file can be wrong, with its line and column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.errors import ScenarioError
from harness.scenario.load import dump_scenario, load_scenario
from harness.scenario.parts import Steer, Traffic

if TYPE_CHECKING:
    from harness.scenario.schema import Scenario

REPO = Path(__file__).resolve().parents[2]
GOOD = """\
kernel: debian:7.3
entries:
  - {cpu: 0, qsize: 2048}
  - {cpu: 2, qsize: 64}
traffic:
  - frames: 4000
"""


def load(tmp_path: Path, text: str | bytes, **overrides: object) -> Scenario:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_scenario(path, overrides)


def faults(tmp_path: Path, text: str | bytes, **overrides: object) -> list[str]:
    """Each fault of a file, without the file's name."""
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path, text, **overrides)
    assert caught.value.exit_status == 2
    prefix = f"{tmp_path / 'mine.yaml'}:"
    lines = caught.value.message.split("\n")
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def only_fault(tmp_path: Path, text: str | bytes, **overrides: object) -> str:
    (fault,) = faults(tmp_path, text, **overrides)
    return fault


def test_quickstart_is_a_scenario() -> None:
    scenario = load_scenario(REPO / "configs" / "quickstart.yaml")
    assert scenario.name == "quickstart"
    assert (scenario.cpus, scenario.kernel, scenario.frames) == (4, ("debian:7.3",), 4000)


def test_defaults(tmp_path: Path) -> None:
    scenario = load(tmp_path, GOOD)
    assert scenario.name == "mine"
    assert scenario.kernel == ("debian:7.3",)
    assert (scenario.cpus, scenario.memory_mib, scenario.seed) == (4, 512, 0)
    assert scenario.socket is True
    assert scenario.steer == Steer(by="frame", to=None, mode="native", miss="aborted")
    assert scenario.traffic == (Traffic(frames=4000, size=64, protocol="udp"),)
    assert scenario.targets == (0, 2)


def test_expansion_leaves_nothing_open_and_can_be_loaded_again(tmp_path: Path) -> None:
    scenario = load(
        tmp_path, GOOD + "  - {frames: 3, source_port: 7}\nexpect: {delivered: {2: 5}}\n"
    )
    expanded = scenario.expand()
    assert expanded.steer.to == (0, 2)
    drawn, given = (flow.source_port for flow in expanded.traffic)
    assert given == 7
    assert drawn is not None
    assert 32768 <= drawn < 61000
    assert expanded.expand() == expanded
    assert load(tmp_path, dump_scenario(expanded)) == expanded
    assert load(tmp_path, dump_scenario(scenario.model_copy(update={"kernel": ()}))).kernel == ()


def test_ports_are_drawn_by_the_seed(tmp_path: Path) -> None:
    flows = "  - {frames: 1}\n" * 40
    first, again, other = (load(tmp_path, f"{GOOD}{flows}seed: {n}\n").expand() for n in (1, 1, 2))
    assert first == again
    ports = [flow.source_port for flow in first.traffic]
    assert len(set(ports)) == 41
    assert ports != [flow.source_port for flow in other.traffic]


def test_aliases_are_data(tmp_path: Path) -> None:
    text = """\
entries: [{cpu: 0, qsize: &depth 64}, {cpu: 1, qsize: *depth}]
traffic: [&flow {frames: 3}, *flow]
"""
    scenario = load(tmp_path, text)
    assert [entry.qsize for entry in scenario.entries] == [64, 64]
    assert scenario.frames == 6


def test_overrides_go_over_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, cpus=8, kernel=("debian:6.1",)).kernel == ("debian:6.1",)
    assert only_fault(tmp_path, GOOD, cpus=2) == (
        "4:11: entries[1].cpu: there is no CPU 2: the guest has CPUs 0 to 1"
    )


def test_names_of_files_become_names(tmp_path: Path) -> None:
    path = tmp_path / f"a\tb{'c' * 200}.yaml"
    path.write_text(GOOD)
    name = load_scenario(path).name
    assert name.startswith("a-bccc")
    assert len(name) == 80


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1: the file is empty: a scenario is a mapping"),
        ("# only a comment\n", "1:1: the file is empty"),
        ("---\n...\n", "the file is empty"),
        ("- a\n- b\n", "1:1: found a list of 2; a scenario is a mapping"),
        ("hello", "1:1: found the text `hello`; a scenario is a mapping"),
        (GOOD + "steer:\n\tby: flow\n", "8:1: a tab: YAML wants spaces"),
        (GOOD + "cpus:\t8\n", "7:6: a tab: YAML wants spaces"),
        (GOOD + "cpus: [1\n", "8:1: no YAML: expected ',' or ']'"),
        (GOOD + "name: a: b\n", "7:8: no YAML: mapping values are not allowed here"),
        (GOOD + "--- \nname: x\n", "7:1: no YAML: but found another document"),
        (GOOD + "name: *x\n", "7:7: no YAML: found undefined alias 'x'"),
        (GOOD + "name: &x [*x]\n", "7:7: name[0]: an alias to what it is a part of"),
        (GOOD + "name: !!python/object:os.system x\n", "7:7: name: the tag !!python/object:os.sy"),
        (GOOD + "name: !mine x\n", "7:7: name: the tag !mine is unknown here"),
        (GOOD + "entries: !!set {a}\n", "given twice"),
        (GOOD + "name: 2024-01-01\n", "7:7: name: `2024-01-01` reads as a date: quote it"),
        (GOOD + f"cpus: {'9' * 50}\n", "7:7: cpus: a number of 50 characters is too long"),
        (GOOD + f"cpus: {'9' * 5000}\n", "7:7: cpus: a number of 5000 characters is too long"),
        (GOOD + "cpus: 010\n", "7:7: cpus: `010` is octal or sexagesimal in YAML"),
        (GOOD + "cpus: 1:30\n", "7:7: cpus: `1:30` is octal or sexagesimal in YAML"),
        (GOOD + "cpus: !!int x\n", "7:7: cpus: `x` is"),
        (GOOD + "cpus: 0x_\n", "7:7: cpus: `0x_` is no whole number"),
        (GOOD + "socket: !!bool x\n", "7:9: socket: `x` is no boolean"),
        (GOOD + "<<: {cpus: 3}\n", "7:1: merge keys (`<<`) are not taken"),
        (GOOD + "yes: 3\n", "7:1: found the boolean `yes` as a key"),
        (GOOD + "1.5: 3\n", "7:1: found the number `1.5` as a key"),
        (GOOD + "? [a]\n: 3\n", "7:3: found a list of 1 as a key"),
        (GOOD + "7: 3\n", "7:1: [7]: unknown key"),
        (GOOD + "cpus: 3\nseed: 1\ncpus: 5\n", "9:1: cpus: given twice: first on line 7"),
        (GOOD + "steer: {by: flow, by: port}\n", "7:19: steer.by: given twice: first on line 7"),
        (b"name: \xff\xfe\n", "1:7: the byte 0xff is no UTF-8: is this a text file?"),
        (b"a: \xc3\xa9\nb: \xe9\n", "2:4: the byte 0xe9 is no UTF-8"),
        (b"\x7fELF\x02\x01", "1:1: the character U+007F has no place in YAML: is this a text file"),
        (b"a: 1\nb: \x00\x01", "2:4: the character U+0000 has no place in YAML"),
        ("[" * 100_000, "1:1: nested too deeply"),
        ("{a: " * 5000, "1:1: nested too deeply"),
        (b"#" * ((256 << 10) + 1), "1:1: more than 256 KiB"),
    ],
)
def test_no_yaml_for_us(tmp_path: Path, text: str | bytes, told: str) -> None:
    assert any(told in fault for fault in faults(tmp_path, text))


def test_billion_laughs_are_not_funny(tmp_path: Path) -> None:
    bombs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert len(faults(tmp_path, f"a0: &a0 [x]\n{bombs}{GOOD}traffic: *a29\n")) > 29
    flows = GOOD.replace("traffic:", "x: &f [1, 2]\ntraffic:")
    assert faults(tmp_path, flows + "  - *f\n")[0].startswith("5:1: x: unknown key")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "kernel: debian:7.3",
            "kernel: 6.10",
            "1:9: kernel: found the number `6.10`; allowed: a k",
        ),
        ("kernel: debian:7.3", "kernel: [debian:7.3, debain:6.1]", "1:22: kernel[1]: found the te"),
        ("kernel: debian:7.3", "kernel: []", "1:9: kernel: found an empty list; allowed: a kernel"),
        ("kernel: debian:7.3", "kernel: {a: 1}", "1:9: kernel: found a mapping; allowed: a kernel"),
        ("kernel: debian:7.3", "kernel:", "1:8: kernel: found nothing; allowed: a kernel spec"),
        (
            "qsize: 64",
            "qsize: 0",
            "4:21: entries[1].qsize: found the whole number `0`; allowed: a "
            "whole number from 1 to 16384",
        ),
        ("qsize: 64", "qsize: 16385", "4:21: entries[1].qsize: found the whole number `16385`"),
        (
            "qsize: 64",
            "qsize: '64'",
            "4:21: entries[1].qsize: found the text `64`; allowed: a whole",
        ),
        ("qsize: 64", "qsize: 64.0", "4:21: entries[1].qsize: found the number `64.0`; allowed"),
        ("qsize: 64", "qsize: yes", "4:21: entries[1].qsize: found the boolean `yes`; allowed"),
        ("qsize: 64", "qsize: ", "entries[1].qsize: found nothing; allowed: a whole number"),
        (
            ", qsize: 64",
            "",
            "4:5: entries[1].qsize: missing; it is frames that its ring holds: a w",
        ),
        (
            "qsize: 64",
            "qsise: 64",
            "4:14: entries[1].qsise: unknown key; did you mean `qsize`? (known here: cpu, qsize, ",
        ),
        ("cpu: 2", "cpu: 0", "4:11: entries[1].cpu: CPU 0 has an entry already, entries[0]"),
        ("cpu: 2", "cpu: 4", "4:11: entries[1].cpu: there is no CPU 4: the guest has CPUs 0 to 3"),
        (
            "cpu: 2",
            "cpu: -1",
            "4:11: entries[1].cpu: found the whole number `-1`; allowed: a whole",
        ),
        ("cpu: 2", "cpu: 1" + "0" * 30, "4:11: entries[1].cpu: found the whole number `1000000"),
        (
            "  - {cpu: 0, qsize: 2048}",
            "  - 7",
            "3:5: entries[0]: found the whole number `7`; allowed"
            ": a mapping with the keys cpu, qsize",
        ),
        ("frames: 4000", "frames: 0", "6:13: traffic[0].frames: found the whole number `0`"),
        ("frames: 4000", "{}", "6:5: traffic[0].frames: missing"),
        (
            "  - frames: 4000",
            " []",
            "6:2: traffic: found an empty list; allowed: a list of 1 to 1024",
        ),
        (
            "frames: 4000",
            "{frames: 1, seed: 2}",
            "6:17: traffic[0].seed: unknown key; it belongs to the top level",
        ),
        (
            "frames: 4000",
            "{frames: 1, size: 70000}",
            "6:23: traffic[0].size: found the whole number",
        ),
        (
            "frames: 4000",
            "{frames: 1, protocol: tcp}",
            "6:27: traffic[0].protocol: tcp frames never reach the UDP socket: set `socket: false`",
        ),
        ("frames: 4000", "{frames: 1, vlan: 5}", "6:23: traffic[0].vlan: frames with a VLAN tag"),
        (
            "frames: 4000",
            "{frames: 1, destination_port: 5}",
            "6:35: traffic[0].destination_port: the",
        ),
        (
            "frames: 4000",
            "{frames: 600000}\n  - {frames: 600000}",
            "6:3: traffic: 1200000 frames in all; at most 1000000",
        ),
        (
            "traffic:",
            "socket: false\ntraffic:\n  - {frames: 1, size: 65, protocol: tcp, vlan: 1}",
            "7:23: traffic[0].size: tcp frames with a VLAN tag take 66 bytes or more, not 65",
        ),
        (
            "traffic:",
            "cpus: 65\ntraffic:",
            "5:7: cpus: found the whole number `65`; allowed: a whole number from 1 to 64",
        ),
        (
            "traffic:",
            "cpus: [4]\ntraffic:",
            "5:7: cpus: found a list of 1; allowed: a whole number",
        ),
        (
            "traffic:",
            "memory-mib: 1\ntraffic:",
            "5:1: memory-mib: unknown key; did you mean `memory_",
        ),
        ("traffic:", "by: flow\ntraffic:", "5:1: by: unknown key; it belongs below `steer`"),
        (
            "traffic:",
            "qsize: 3\ntraffic:",
            "5:1: qsize: unknown key; it belongs to an item of `entri",
        ),
        (
            "traffic:",
            "xyzzy: 3\ntraffic:",
            "5:1: xyzzy: unknown key (known here: name, description,",
        ),
        (
            "traffic:",
            "steer: {by: flows}\ntraffic:",
            "5:13: steer.by: found the text `flows`; allowed"
            ": frame, flow, port or hash; did you mean `flow`?",
        ),
        ("traffic:", "steer: {mode: Nativ}\ntraffic:", "did you mean `native`?"),
        (
            "traffic:",
            "steer: {to: []}\ntraffic:",
            "5:13: steer.to: found an empty list; allowed: a l",
        ),
        ("traffic:", "steer: {to: [0, x]}\ntraffic:", "5:17: steer.to[1]: found the text `x`"),
        (
            "traffic:",
            "steer:\ntraffic:",
            "steer: found nothing; allowed: a mapping with the keys by",
        ),
        (
            "traffic:",
            "name: 5\ntraffic:",
            "5:7: name: found the whole number `5`; allowed: text on on",
        ),
        ("traffic:", "name: ''\ntraffic:", "5:7: name: found an empty text; allowed: text on one"),
        ("traffic:", 'name: "a\\nb"\ntraffic:', "5:7: name: found the text `a\\nb`"),
        (
            "traffic:",
            "append: no\ntraffic:",
            "5:9: append: found the boolean `no`; allowed: text on "
            "one line of 0 to 1024 characters; quote it to make it text",
        ),
        (
            "traffic:",
            "socket: nope\ntraffic:",
            "5:9: socket: found the text `nope`; allowed: true or",
        ),
        (
            "traffic:",
            "rate: .inf\ntraffic:",
            "5:7: rate: found the number `.inf`; allowed: a whole",
        ),
        ("traffic:", "seed: -1\ntraffic:", "5:7: seed: found the whole number `-1`"),
        (
            "traffic:",
            "expect: {delivered: x}\ntraffic:",
            "5:21: expect.delivered: found the text `x`; allowed: a whole number from 0 to 1000000,"
            " a range [lowest, highest], or such for each CPU like {2: 64}",
        ),
        (
            "traffic:",
            "expect: {delivered: {x: 1}}\ntraffic:",
            "5:25: expect.delivered.x: found the key `x`; a CPU is a whole number from 0 to 8191",
        ),
        (
            "traffic:",
            "expect: {dropped: {1: -1}}\ntraffic:",
            "5:23: expect.dropped[1]: found the who",
        ),
        (
            "traffic:",
            "expect: {dropped: {4: 1}}\ntraffic:",
            "5:20: expect.dropped[4]: there is no CPU 4: the guest has CPUs 0 to 3",
        ),
        (
            "traffic:",
            "expect: {aborted: {1: 1}}\ntraffic:",
            "5:19: expect.aborted: found a mapping; a",
        ),
    ],
)
def test_one_fault(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert told in only_fault(tmp_path, GOOD.replace(old, new, 1))


def test_nowhere_to_steer_to(tmp_path: Path) -> None:
    text = "entries: []\ntraffic: [{frames: 1}]\n"
    assert only_fault(tmp_path, text).startswith("1:10: entries: an empty cpumap and no `steer.to`")
    assert load(tmp_path, text + "steer: {to: [3, 9]}\n").targets == (3, 9)


def test_misspelt_key_is_not_missing_as_well(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, GOOD.replace("entries", "entires"))
    assert fault.startswith("2:1: entires: unknown key; did you mean `entries`? (known here: ")


def test_nothing_is_there(tmp_path: Path) -> None:
    told = faults(tmp_path, "name: x\n")
    assert [fault.split(";")[0] for fault in told] == [
        "1:1: entries: missing",
        "1:1: traffic: missing",
    ]


def test_all_faults_at_once_in_order_of_line(tmp_path: Path) -> None:
    text = """\
kernel: 6.10
entires: 4
cpus: 2
entries:
  - {cpu: 0, qsize: no}
  - {cpu: 1, qsize: 3, cpu: 1}
traffic: [{frames: 5, vlan: 1}]
expect: {delivered: {2: 5}, dropt: 1}
seed: 2024-01-01
"""
    assert [fault.split(": ")[:2] for fault in faults(tmp_path, text)] == [
        ["1:9", "kernel"],
        ["2:1", "entires"],
        ["5:21", "entries[0].qsize"],
        ["6:24", "entries[1].cpu"],
        ["7:29", "traffic[0].vlan"],
        ["8:29", "expect.dropt"],
        ["9:7", "seed"],
    ]


def test_conflicts_are_told_beside_faults_of_other_keys(tmp_path: Path) -> None:
    told = faults(tmp_path, GOOD.replace("cpu: 2", "cpu: 9") + "sead: 3\n")
    assert [fault.split(": ")[1] for fault in told] == ["entries[1].cpu", "sead"]
    # but not those that a wrong key has a part in: there may be no conflict once it is right
    told = faults(tmp_path, GOOD.replace("cpu: 2", "cpu: 9") + "cpus: eight\n")
    assert [fault.split(": ")[1] for fault in told] == ["cpus"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"cannot read the scenario .*: No such file or dir"):
        load_scenario(tmp_path / "none.yaml")
    with pytest.raises(ScenarioError, match="cannot read the scenario"):
        load_scenario(tmp_path / "a\0b")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="is a directory, not a scenario"):
        load_scenario(tmp_path)
    (tmp_path / "a.yaml").touch()
    with pytest.raises(ScenarioError) as caught:
        load_scenario(tmp_path)
    assert caught.value.remedy == f"name a file in it, like {tmp_path / 'a.yaml'}"


def test_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbf" + GOOD.encode()).frames == 4000


def test_long_values_are_clipped(tmp_path: Path) -> None:
    fault = only_fault(tmp_path, GOOD + f"socket: {'x' * 1000}\n")
    assert f"`{'x' * 40}…`" in fault
