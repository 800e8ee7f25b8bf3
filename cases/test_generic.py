"""Generic (skb mode) XDP redirects into the map too, since 5.15."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.errors import GuestError
from harness.model.gates import STACK_KNOWS_CPUMAP_GENERIC
from harness.trace.events import CpumapEnqueue, XdpRedirectErr

if TYPE_CHECKING:
    from harness.casework import Casework

ENOSPC, EINVAL = 28, 22


@pytest.mark.proves(
    "cpu_map_prog_allowed", "a map with room for programs keeps its redirectors from generic XDP"
)
def test_generic_is_refused_where_it_cannot_redirect(lab: Casework) -> None:
    with pytest.raises(GuestError) as refused:
        lab.steer(2, mode="generic")
    assert refused.value.errno == EINVAL


@pytest.mark.smoke
@pytest.mark.proves("cpu_map_generic_redirect", "an skb is delivered on the CPU of its entry")
def test_generic_delivers_to_every_cpu(lab: Casework) -> None:
    lab.steer(lab.cpus, mode="generic")
    lab.send(frames=50 * len(lab.cpus))
    books = lab.close()
    assert [row.delivered for row in books.per_cpu] == [50] * len(lab.cpus)


@pytest.mark.proves(
    "cpu_map_generic_redirect", "a full ring refuses an skb: ENOSPC, and the drop is traced"
)
@pytest.mark.proves(
    "cpu_map_generic_redirect", "each skb is offered by itself and traced as one event"
)
@pytest.mark.parametrize("beyond", [0, 1, 24])
def test_generic_drops_what_does_not_fit(lab: Casework, beyond: int) -> None:
    run = lab.steer(3, entries={3: 16}, mode="generic")
    with lab.hold(3):
        lab.send(frames=16 + beyond)
        run.wait_offered()
    books = lab.close()
    assert books.queue_drops == beyond
    assert [r.err for r in lab.records(XdpRedirectErr)] == [-ENOSPC] * beyond
    assert {(r.processed, r.drops) for r in lab.records(CpumapEnqueue)} <= {(1, 0), (0, 1)}
    assert books.delivered == 16


@pytest.mark.proves(
    "cpu_map_kthread_run", "frames and skbs may share a ring", since=STACK_KNOWS_CPUMAP_GENERIC
)
@pytest.mark.machine(nics=2)
def test_frames_and_skbs_share_an_entry(lab: Casework) -> None:
    run = lab.steer(2, entries={2: 512}, nics=(0, 1), mode="mixed")
    run.send([run.flow(100, nic=0), run.flow(100, nic=1)])
    assert lab.close().delivered == 200
