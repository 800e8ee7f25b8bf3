"""A guest of ours as a target: any machine that is reached over SSH."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.lab import Lab
from harness.machine.topology import Topology
from harness.sshd import open_door
from harness.target.address import Address
from harness.target.login import Login
from harness.target.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.guest import Guest


@pytest.fixture(scope="module")
def machine(a_kernel: str) -> Iterator[Guest]:
    """A machine with an sshd."""
    with Lab().open(a_kernel, Topology(ssh=True, nics=0)) as guest:
        yield guest


@pytest.fixture(scope="module")
def login(machine: Guest) -> Login:
    """The way in."""
    door = open_door(machine.machine)
    return Login.of(Address.parse("ssh://guest"), config=door.directory / "ssh_config")


def test_an_agent_answers(machine: Guest, login: Login) -> None:
    with Session(login) as session:
        started = session.start_agent(deadline_s=60)
        assert started.link.call("read", "/proc/self/comm", 100) == b"agent\n"
        assert session.end_agent(started) == ""
