"""A target that falls silent: neither it nor its network says that it has gone.

Each takes as long as both ends wait for a sign of life: pytest collects this file only if it is
named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab_tools import LATE_S, see_nothing

from harness.casework import Casework
from harness.errors import AgentLost, TargetFailed
from harness.machine.topology import Topology
from harness.patience import wait_until
from harness.target.bridge import ALONE_S
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.guest import Guest
    from harness.target.lab import TargetLab


@pytest.mark.parametrize("gone", ["the network", "the machine"])
def test_silence(
    machine: Guest, target: TargetLab, left: Callable[[], list[str]], gone: str
) -> None:
    case = Casework(target.open("", Topology(nics=1)))
    case.steer((1, 2))
    case.guest.spawn("pause")
    assert left() != []
    if gone == "the network":
        machine.own.qmp("set_link", name="ssh", up=False)
    else:
        machine.own.qmp("stop")
    with pytest.raises(AgentLost, match="nothing was heard from ssh://guest for 60 s: see") as lost:
        case.guest.read("/proc/uptime")
    assert case.explain(lost.value).verdict is Verdict.INVALID
    case.guest.machine.close()
    with pytest.raises(TargetFailed, match=r"ssh://guest (cannot be reached|does not talk SSH)"):
        target.open("", Topology(nics=1))
    if gone == "the network":
        # nobody tells the agent but the silence; the sshd is not ours, and waits on
        assert wait_until(lambda: all("dropbear" in each for each in left()), ALONE_S + LATE_S)
        machine.own.qmp("set_link", name="ssh", up=True)
    else:
        machine.own.qmp("cont")
    see_nothing(left, ALONE_S + LATE_S)
    with Casework(target.open("", Topology(nics=1))).guest as guest:
        assert guest.read("/proc/uptime")
    target.close()
    see_nothing(left)
