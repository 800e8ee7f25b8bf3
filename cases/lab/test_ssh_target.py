"""A guest of ours as a target: any machine that is reached over SSH, and left as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
import pytest
import yaml
from click.testing import CliRunner
from lab_tools import LATE_S, see_nothing

from harness.casework import Casework
from harness.cli import cpumap_lab
from harness.entries import load_onward
from harness.errors import AgentLost, TargetFailed, UserError
from harness.machine.topology import Topology
from harness.paths import REPO
from harness.scenario.load import load_scenario
from harness.scenario.runner import Watch, run_scenario
from harness.target.lab import patiently
from harness.target.session import Session
from harness.toolbox import make_directories, put
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.guest import Guest
    from harness.target.lab import TargetLab
    from harness.target.login import Login
    from harness.target.session import Started


@pytest.fixture
def home(login: Login, tmp_path: Path) -> Path:
    """A home directory whose ssh knows the machine."""
    (tmp_path / ".ssh").mkdir()
    config = Path(login.keys[0]).parent / "ssh_config"
    (tmp_path / ".ssh/config").write_bytes(config.read_bytes())
    return tmp_path


def test_cases_run_there_and_leave_nothing(
    login: Login, home: Path, left: Callable[[], list[str]]
) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "--target", str(login.address)]
    cases = ["cases/test_delivery.py", "cases/test_known.py", "cases/test_hotplug.py"]
    cases += ["configs/hot-replacement.yaml"]
    done = subprocess.run(
        [*command, *cases, "-k", "delivery or known or online or yaml"],
        env=os.environ | {"HOME": str(home)},
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    see_nothing(left)


@pytest.mark.parametrize("cut", ["the sshd is killed", "our end is closed"])
def test_a_connection_that_breaks(
    machine: Guest, target: TargetLab, left: Callable[[], list[str]], cut: str
) -> None:
    case = Casework(target.open("", Topology(nics=1)))
    run = case.steer((1, 2))
    run.set(1, 64, load_onward(case.guest, run.cpumap, 2), onward=(2,))  # it holds its own map
    case.send(frames=200)
    case.guest.spawn("pause")
    assert left() != []
    if cut == "our end is closed":
        target.hang_up()
    else:
        for pid, _ in sorted(machine.calls.link.call("threads", "dropbear"))[1:]:
            machine.calls.must("kill", pid, signal.SIGKILL)
    with pytest.raises(AgentLost, match="the connection to ssh://guest broke") as lost:
        case.guest.read("/proc/uptime")
    assert case.explain(lost.value).verdict is Verdict.INVALID
    see_nothing(left)
    case.guest.machine.close()
    again = Casework(target.open("", Topology(nics=1)))  # the next case logs in anew
    with again.guest:
        again.steer(1)
        again.send(frames=20)
        assert again.finish().verdict is Verdict.PASS
    target.close()
    see_nothing(left)


def make_scenario(directory: Path, **more: object) -> Path:
    file = directory / "mine.yaml"
    keys = {"entries": [{"cpu": 1, "qsize": 16384}], "traffic": [{"frames": 9000}], **more}
    file.write_text(yaml.safe_dump(keys))
    return file


def test_a_scenario_runs_there_and_once_more(
    login: Login,
    home: Path,
    left: Callable[[], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(home))
    file = make_scenario(tmp_path, injector="live", cpus=2, expect={"delivered": {1: 9000}})
    kept = tmp_path / "kept"
    done = CliRunner().invoke(
        cpumap_lab, ["run", str(file), "--target", str(login.address), "--artifacts", str(kept)]
    )
    assert done.exit_code == 0, done.output
    (results,) = kept.iterdir()
    told = json.loads((results / "run.json").read_text())
    assert told["scenario"]["target"] == told["kernel"]["spec"] == str(login.address)
    assert told["qemu"] == {"version": None, "accelerator": None, "threads": None}
    done = CliRunner().invoke(cpumap_lab, ["rerun", str(results)])
    assert done.exit_code == 0, done.output
    assert "unchanged: kernel release" in done.output
    assert "changed: " not in done.output.replace("unchanged: ", "")
    see_nothing(left)


def test_a_scenario_whose_connection_breaks(
    target: TargetLab, left: Callable[[], list[str]], tmp_path: Path
) -> None:
    scenario = load_scenario(make_scenario(tmp_path, target="ssh://guest"))
    gone: list[int] = []

    def cut(sent: int, _: int) -> None:
        if sent and not gone:
            gone.append(sent)
            target.hang_up()

    watch = Watch(advance=cut)
    outcome = run_scenario(target, scenario, "ssh://guest", watch, root=tmp_path / "kept")
    assert gone[0] < scenario.frames
    assert outcome.record.verdict is Verdict.INVALID
    (why,) = outcome.record.reasons
    assert "the connection to ssh://guest broke" in why
    see_nothing(left)


def test_a_scenario_of_more_cpus_than_there_are(target: TargetLab, tmp_path: Path) -> None:
    scenario = load_scenario(make_scenario(tmp_path, target="ssh://guest", cpus=64))
    outcome = run_scenario(target, scenario, "ssh://guest", root=tmp_path / "kept")
    assert outcome.record.verdict is Verdict.SKIP
    assert outcome.record.reasons == ("ssh://guest has no 64 CPUs (4 are online)",)


def test_an_agent_that_hears_nothing(
    login: Login, left: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start() -> tuple[Session, Started]:
        with contextlib.ExitStack() as undo, monkeypatch.context() as patch:
            session = undo.enter_context(Session(login))
            patch.setattr("harness.target.bridge.BEAT_S", LATE_S)
            patch.setattr("harness.target.session.ALONE_S", 1)
            agent = session.start_agent(deadline_s=LATE_S)
            undo.pop_all()
        return session, agent

    session, agent = patiently(start)
    with session:
        assert agent.channel.status_event.wait(LATE_S)
        with pytest.raises(AgentLost, match=r"has ended: .*: nothing was heard from"):
            agent.link.call("read", "/proc/uptime", 64)
        agent.link.close()
    see_nothing(left)


def test_a_host_that_is_not_known(login: Login) -> None:
    with pytest.raises(UserError, match=r"not a known host \(ssh-ed25519 SHA256:") as refused:
        Session(dataclasses.replace(login, known_hosts=()))
    assert "log in with `ssh -p" in refused.value.remedy


def test_a_host_with_another_key(login: Login, tmp_path: Path) -> None:
    other = paramiko.Ed25519Key.from_private_key_file(login.keys[0])
    known = tmp_path / "known_hosts"
    known.write_text(f"{login.name} {other.get_name()} {other.get_base64()}\n")
    with pytest.raises(UserError, match="another host key than known_hosts") as refused:
        Session(dataclasses.replace(login, known_hosts=(str(known),)))
    assert f"ssh-keygen -R '{login.name}'" in refused.value.remedy


def test_a_key_that_is_not_let_in(login: Login, tmp_path: Path) -> None:
    key = tmp_path / "key"
    paramiko.RSAKey.generate(2048).write_private_key_file(str(key))
    with pytest.raises(UserError, match="does not let root in") as refused:
        Session(dataclasses.replace(login, keys=(str(key),)))
    assert "ssh-copy-id" in refused.value.remedy


def test_a_host_that_is_not_there(login: Login) -> None:
    with pytest.raises(TargetFailed, match="cannot be reached at port 1: Connection refused"):
        Session(dataclasses.replace(login, port=1))


def test_who_is_not_root(machine: Guest, login: Login, left: Callable[[], list[str]]) -> None:
    calls = machine.calls
    public = paramiko.Ed25519Key.from_private_key_file(login.keys[0])
    line = f"{public.get_name()} {public.get_base64()}\n".encode()
    passwd = machine.read("/etc/passwd")
    make_directories(calls, ["/guest/.ssh"], 0o755)
    put(calls, "/guest/.ssh/authorized_keys", line, 0o644)
    put(calls, "/etc/passwd", f"{passwd}guest:x:1000:1000::/guest:/bin/sh\n".encode(), 0o644)
    with pytest.raises(UserError, match="guest is not root on ssh://guest, and sudo") as refused:
        Session(dataclasses.replace(login, user="guest"))
    assert "sudo -n true" in refused.value.remedy
    see_nothing(left)
