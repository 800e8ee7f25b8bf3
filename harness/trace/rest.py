"""Whether a run has come to rest, so that its books may be closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.trace.events import XdpAction
from harness.trace.tally import Place, Tally, add_up, merge

if TYPE_CHECKING:
    from harness.trace.evidence import Circumstances


@dataclass(frozen=True, slots=True)
class Pending:
    """Frames that one hop still owes to the next.

    Attributes:
        hop: the hop that they have not reached.
        place: the map and CPU.
        count: frames; negative when the hop has more than it was given, so far.
    """

    hop: str
    place: Place
    count: int

    def __str__(self) -> str:
        if self.count < 0:
            return f"{self.hop} ({self.place}): {-self.count} more than were handed over"
        return f"{self.hop} ({self.place}): {self.count} to come"


@dataclass(frozen=True, slots=True)
class Rest:
    """The answer of `quiescent`: true when nothing is pending.

    Attributes:
        pending: what is still missing, in the order of the hops.
    """

    pending: tuple[Pending, ...]

    def __bool__(self) -> bool:
        return not self.pending

    def __str__(self) -> str:
        return "; ".join(str(item) for item in self.pending) or "at rest"


def quiescent(
    tally: Tally,
    known: Circumstances,
    *,
    injected: int | None = None,
    seen: int | None = None,
    redirected: int | None = None,
    aborted: int = 0,
    passed: int = 0,
    delivered: int | None = None,
) -> Rest:
    """Tell whether a run is at rest, from what was read so far.

    Accepted and taken are always compared. The other hops are compared when their totals are
    given: without them a run may look at rest while frames are still on their way to the XDP
    program, or (from 6.12 on, where the kthread's event precedes delivery) to the stack.
    A run that does not come to rest by its deadline is broken: close its books, they name the hop.

    Args:
        tally: every record read so far.
        known: the circumstances of the run.
        injected: frames sent.
        seen: frames that the XDP program noted.
        redirected: of those, with verdict XDP_REDIRECT; live ones with XDP_TX are redirected too.
        aborted: of those, with verdict XDP_ABORTED, which the driver traces after the program;
            who runs live frames traces none.
        passed: of those, with verdict XDP_PASS.
        delivered: frames (GRO: segments) that the tc program noted.
    """
    sums = add_up(tally, known)
    pending = []
    if injected is not None and seen is not None:
        pending.append(Pending("seen", Place(), injected - seen))
    if redirected is not None:
        given = redirected + sums.forwarded.total() + sums.entry_ring_full.total()
        went = sums.offered.total() + sums.errors.total() + sums.devices.total()
        pending.append(Pending("enqueued", Place(), given - went))
    traced = sum(n for (_, act), n in sums.exceptions.items() if act == XdpAction.ABORTED)
    pending.append(Pending("exceptions", Place(), max(aborted - traced, 0)))
    unpinned = () if known.pinned else ("cpu",)
    accepted, taken = merge(sums.accepted, *unpinned), merge(sums.taken, *unpinned)
    for place in sorted(accepted.keys() | taken.keys(), key=str):
        pending.append(Pending("taken", place, accepted[place] - taken[place]))
    if delivered is not None:
        due = sums.passed.total() + passed - delivered
        drops = sums.kthread_drops.total()
        if not known.counts_stack_drops:
            due -= drops
        elif 0 <= due <= drops:
            due = 0
        pending.append(Pending("delivered", Place(), due))
    return Rest(tuple(item for item in pending if item.count))
