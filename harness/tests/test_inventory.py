"""What there is, listed and compared; on guests it is tried in cases/lab/test_launchers.py."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from harness.errors import GuestError
from harness.inventory import VOLATILE, Inventory
from harness.tests.agents import Agent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as agent:
        yield agent


def test_a_tree_is_read_in_one_go(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/runtime").write_text("1\n")
    (tmp_path / "a/other").write_text("2\n")
    (tmp_path / "a/secret").touch(0o200)
    (tmp_path / "a/link").symlink_to("other")
    link = agent.link()
    assert sorted(link.call("tree", f"{tmp_path}/a", "")) == [
        [f"{tmp_path}/a/b/runtime", b"1\n"],
        [f"{tmp_path}/a/other", b"2\n"],
        [f"{tmp_path}/a/secret", None],
    ]
    assert link.call("tree", f"{tmp_path}/a", "runtime") == [[f"{tmp_path}/a/b/runtime", b"1\n"]]
    assert link.call("tree", f"{tmp_path}/nothing", "") == []


def test_an_agent_that_nobody_would_follow_does_not_leave(agent: Agent) -> None:
    link = agent.link()
    with pytest.raises(GuestError, match="nobody would take the agent's place") as refused:
        link.call("leave")
    assert refused.value.errno == errno.EPERM
    assert link.call("read", "/proc/self/comm", 64) == b"agent\n"


def test_each_difference_is_named() -> None:
    before = Inventory({"map": {"1": "cpus", "2": ""}, "sysctl": {"/x": "1", "/y": "1"}})
    after = Inventory({"map": {"1": "cpus", "3": "hops"}, "sysctl": {"/x": "0", "/y": "1"}})
    assert sorted(before.differences(after)) == [
        "map 2 is gone",
        "map 3 is new (hops)",
        "sysctl /x was '1' and is '0'",
    ]
    assert before.differences(before) == []


@pytest.mark.parametrize(
    ("path", "volatile"),
    [
        ("/proc/sys/kernel/random/uuid", True),
        ("/proc/sys/net/ipv4/conf/eth0/rp_filter", True),
        ("/proc/sys/net/ipv4/ip_forward", False),
        ("/proc/sys/kernel/sched_rt_runtime_us", False),
        ("/proc/sys/kernel/threads-max", False),
    ],
)
def test_counters_are_no_settings(path: str, volatile: bool) -> None:
    assert bool(VOLATILE.match(path)) is volatile
