"""A prompt over the link: with the real agent as an ordinary program, on a real terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pexpect
import pytest

from harness.errors import AgentLost
from harness.machine.topology import Topology
from harness.patience import wait_until
from harness.phases import Phases
from harness.shell import cli, terminal
from harness.shell.session import Session, find_silence
from harness.tests.agents import Agent
from harness.tests.fakes import LATE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START = """\
import os, sys
from harness.shell import terminal
from harness.shell.session import Session
from harness.tests.agents import Agent

with Agent() as agent:
    session = Session(agent.link(), "/bin/sh", sys.argv[1])
"""
PROMPT = (
    START
    + """\
    session.start_on_terminal(terminal.size(), terminal.kind())
    print("agent", agent.process.pid)
    ended = terminal.attend(session)
    print("ended", ended, session.wait() if ended else "")
"""
)
COMMAND = (
    START
    + """\
    session.start_command(sys.argv[2])
    terminal.relay(session)
    sys.exit(session.wait())
"""
)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[pexpect.spawn]:
    """A person's shell on a terminal; `run` there starts the program above."""
    script = tmp_path / "prompt.py"
    script.write_text(PROMPT)
    env = os.environ | {"PS1": "host> ", "TERM": "vt100", "ENV": "", "HISTFILE": ""}
    child = pexpect.spawn("/bin/sh", ["-i"], env=env, timeout=LATE_S, dimensions=(30, 100))
    child.expect_exact("host> ")
    child.sendline(f"run() {{ {sys.executable} {script} {tmp_path}/room; }}; stty -g")
    child.expect(r"\r\n([0-9a-f:]+)\r\n")
    child.before_all = child.match[1]
    child.expect_exact("host> ")
    yield child
    child.close(force=True)


def enter(person: pexpect.spawn) -> int:
    """Start the prompt, give it a name, and return the agent's pid."""
    person.sendline("run")
    person.expect(r"agent (\d+)\r\n")
    agent = int(person.match[1])
    person.sendline("PS1=gue''st: ")
    person.expect_exact("guest:")
    return agent


def check_left(person: pexpect.spawn, agent: int) -> None:
    """See that the terminal is as it was, and that the agent has gone."""
    person.expect_exact("host> ")
    person.sendline("stty -g")
    person.expect(r"\r\n([0-9a-f:]+)\r\n")
    assert person.match[1] == person.before_all
    with pytest.raises(ProcessLookupError):
        os.kill(agent, 0)


def test_a_prompt_is_a_terminal(person: pexpect.spawn) -> None:
    agent = enter(person)
    person.sendline("stty size; tty; echo $TERM")
    person.expect_exact("30 100\r\n")
    person.expect(r"/dev/pts/\d+\r\n")
    person.expect_exact("vt100\r\n")
    person.setwinsize(40, 120)
    person.expect_exact("guest:")
    deadline = time.monotonic() + LATE_S
    while True:  # the signal and the ioctl are on their way
        person.sendline("stty size")
        if person.expect_exact(["40 120\r\n", "30 100\r\n"]) == 0:
            break
        assert time.monotonic() < deadline
    person.sendline("exit 5")
    person.expect_exact("ended True 5")
    check_left(person, agent)


def test_control_c_is_for_the_command_in_the_guest(person: pexpect.spawn) -> None:
    agent = enter(person)
    # it says so from its own process group, which is in the foreground by then
    person.sendline("sh -c 'echo star\"\"ted; exec sleep 1000'")
    person.expect_exact("started\r\n")
    person.sendintr()
    person.expect_exact("guest:")
    person.sendline("echo sta''tus $?")
    person.expect_exact("status 130")
    person.sendeof()
    person.expect_exact("ended True 0")
    check_left(person, agent)


def test_a_key_leaves_a_guest_that_does_not_answer(person: pexpect.spawn) -> None:
    agent = enter(person)
    os.kill(agent, signal.SIGSTOP)
    person.send("any\x1d")
    person.expect_exact("ended False")
    check_left(person, agent)


def test_the_key_is_heard_while_the_guest_takes_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.openpty()
    with Agent() as agent, open(theirs) as keys:
        session = Session(agent.link(), "/bin/sh", str(tmp_path))
        session.start_on_terminal((24, 80), "vt100", to=ours)
        os.kill(agent.process.pid, signal.SIGSTOP)
        session.write(b"taken by nobody")
        assert not session.takes_input
        os.write(ours, b"nor this")
        os.write(ours, terminal.LEAVE)
        monkeypatch.setattr(sys, "stdin", keys)
        assert not terminal.attend(session)
    os.close(ours)


def test_what_is_typed_ahead_arrives_in_order(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with Agent() as agent:
        session = Session(agent.link(), "/bin/sh", str(tmp_path))
        session.start_command(f"cat >{said}")
        typed = [bytes([65 + part]) * 3000 for part in range(20)]
        for part in typed:
            session.write(part)
        while not session.takes_input:
            session.step()
        session.write(b"")
        attend_to(session)
        assert session.wait() == 0
    assert said.read_bytes() == b"".join(typed)


def test_a_guest_that_goes_gives_the_terminal_back(person: pexpect.spawn) -> None:
    agent = enter(person)
    os.kill(agent, signal.SIGKILL)
    person.expect_exact("AgentLost")
    check_left(person, agent)


def test_a_terminal_that_goes(person: pexpect.spawn) -> None:
    agent = enter(person)
    person.close(force=True)
    assert wait_until(lambda: not os.path.exists(f"/proc/{agent}"), LATE_S)


def run(tmp_path: Path, command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-c", COMMAND, str(tmp_path / "room"), command]
    return subprocess.run(argv, input=given, capture_output=True, timeout=LATE_S, check=False)


def test_a_command_has_its_output_errors_and_status(tmp_path: Path) -> None:
    done = run(tmp_path, "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_a_command_takes_input_of_any_bytes(tmp_path: Path) -> None:
    given = bytes(range(256)) * 1000
    assert run(tmp_path, "cat", given).stdout == given


def test_a_command_that_does_not_want_its_input(tmp_path: Path) -> None:
    done = run(tmp_path, "exec <&-; echo ready", bytes(1 << 20))
    assert (done.stdout, done.returncode) == (b"ready\n", 0)


def test_a_command_that_a_signal_ends(tmp_path: Path) -> None:
    assert run(tmp_path, "kill -TERM $$").returncode == 128 + signal.SIGTERM


def test_a_pipe_whose_reader_leaves_ends_quietly(tmp_path: Path) -> None:
    assert run(tmp_path, "yes | head -n 1").stderr == b""


@pytest.mark.parametrize("ended", ["", "the guest has restarted"])
def test_a_guest_that_gives_no_prompt(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ended: str,
) -> None:
    """All that is known of it is told; only the console of its run has its last words."""
    recipe = SimpleNamespace(
        kernel=SimpleNamespace(release="7.3.4-x", spec="debian:7.3"),
        topology=Topology(),
    )
    machine: Any = SimpleNamespace(link=None, ended=ended, recipe=recipe, pace=1)
    monkeypatch.setattr(cli, "find_silence", lambda *_: "it sleeps")
    (tmp_path / "console.log").write_text("one\nKernel panic\n")
    why = f"{ended}, and cannot run on" if ended else "it sleeps"
    with pytest.raises(AgentLost, match=f"gives no prompt: {why}") as error:
        cli.enter(machine, tmp_path, (), Phases(sys.stderr), cli.Wish(False, False, True))
    assert "--gdb" in error.value.remedy
    assert capsys.readouterr().err.endswith(
        "the last lines of its console:\n  one\n  Kernel panic\n"
    )


def test_an_agent_that_is_silent() -> None:
    with Agent() as agent:
        assert find_silence(agent.link(), LATE_S) == ""
        os.kill(agent.process.pid, signal.SIGSTOP)
        assert "did not answer 'read'" in find_silence(agent.link(), 0.1)


def test_a_session_whose_agent_has_gone(tmp_path: Path) -> None:
    with Agent() as agent:
        session = Session(agent.link(), "/bin/sh", str(tmp_path))
        session.start_command("sleep 1000")
        agent.process.kill()
        with pytest.raises(AgentLost, match="QEMU has gone"):
            attend_to(session)


def attend_to(session: Session) -> None:
    while not session.is_over:
        session.step()
