"""The closed books of one run: accounts, laws, and what does not balance."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from harness.verdict import Verdict

if TYPE_CHECKING:
    from harness.trace.tally import Place

FRAMES_NAMED = 16
"""Frame numbers that an imbalance lists at most; its counts are always whole."""


class Kind(enum.StrEnum):
    """What is wrong at a hop."""

    MISSING = "missing"
    """The hop has fewer frames than the one before handed over."""
    EXCESS = "too many"
    """The hop has more frames than the one before handed over."""
    DOUBLED = "doubled"
    """A frame was noted more than once."""
    MISROUTED = "misrouted"
    """A frame reached the stack on a CPU that it was not steered to."""
    STRAY = "stray"
    """A frame or an event where there may be none."""
    REORDERED = "reordered"
    """A frame overtook one that its producer steered to the same entry before it."""
    RESIZED = "resized"
    """A frame changed its length on the way."""
    MALFORMED = "malformed"
    """An event that this kernel's cpumap.c cannot emit."""
    ILLEGIBLE = "illegible"
    """The notes of the guest's programs contradict themselves: no judgement."""


@dataclass(frozen=True, slots=True)
class Imbalance:
    """One thing that does not balance.

    Attributes:
        hop: where it shows: "seen", "exceptions", "enqueued", "taken", "delivered", "socket".
        kind: what is wrong.
        place: the map and CPUs it is about.
        count: frames (MALFORMED and stray events: events) that are wrong.
        candidates: frames that the wrong ones are among; equal to `count` when they are known
            exactly, more when others were lost there by right, less when the events alone are off.
        frames: the first `FRAMES_NAMED` of the candidates.
        detail: what was expected and what was found.
    """

    hop: str
    kind: Kind
    place: Place
    count: int
    detail: str
    candidates: int = 0
    frames: tuple[int, ...] = ()

    def __str__(self) -> str:
        text = f"{self.hop}, {self.place}: {self.count} {self.kind}: {self.detail}"
        if self.frames:
            named = ", ".join(map(str, self.frames))
            more = self.candidates - len(self.frames)
            among = "" if self.candidates <= self.count else f"among {self.candidates} "
            text += f" [{among}frames {named}{f' and {more} more' if more > 0 else ''}]"
        return text


@dataclass(frozen=True, slots=True)
class Law:
    """One conservation law.

    Attributes:
        name: as an equation of accounts.
        left: frames on its left side, over all places.
        right: frames on its right side.
        holds: whether it holds at every place, not only in sum.
        explanation: why it must hold.
    """

    name: str
    left: int
    right: int
    holds: bool
    explanation: str


@dataclass(frozen=True, slots=True)
class CpuRow:
    """The books by destination CPU, in frames.

    Attributes:
        cpu: the CPU.
        enqueued: offered to rings of entries with this key.
        dropped: refused by those rings, which were full.
        kthread: taken by kthreads that ran here.
        delivered: noted here by the tc program.
        socket: of those, received by the socket; None without a socket.
    """

    cpu: int
    enqueued: int
    dropped: int
    kthread: int
    delivered: int
    socket: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """Every account of a run, in frames.

    Attributes:
        injected: proven sent.
        seen: noted by the XDP program.
        passed: of those, with verdict XDP_PASS.
        dropped: with XDP_DROP.
        aborted: with XDP_ABORTED or a verdict that is none.
        tx: with XDP_TX.
        redirected: with XDP_REDIRECT.
        redirect_errors: redirects of the XDP program that failed before any ring was tried.
        enqueued: offered to rings, by the XDP program and by entries' programs.
        queue_drops: of those, refused by a full ring.
        accepted: the rest.
        taken: by kthreads.
        prog_pass: passed by an entry's program.
        prog_drop: dropped by an entry's program.
        prog_redirect: redirected by an entry's program.
        alloc_drops: lost by a kthread for want of an skb.
        devices: given to a device for transmission.
        delivered: noted at the stack; GRO segments count one each.
        socket: received by the socket; None without a socket.
        socket_drops: that found the socket's buffer full.
        stray: noted where they have no right to be.
    """

    injected: int
    seen: int
    passed: int
    dropped: int
    aborted: int
    tx: int
    redirected: int
    redirect_errors: int
    enqueued: int
    queue_drops: int
    accepted: int
    taken: int
    prog_pass: int
    prog_drop: int
    prog_redirect: int
    alloc_drops: int
    devices: int
    delivered: int
    socket: int | None
    socket_drops: int
    stray: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Books(Accounts):
    """The closed books.

    Attributes:
        per_cpu: by destination CPU, for every CPU that has an entry or took part.
        laws: all that apply to this run.
        imbalances: what is wrong, in the order of the hops.
        lost_events: trace events that cannot be accounted for; any makes the run invalid.
    """

    per_cpu: tuple[CpuRow, ...]
    laws: tuple[Law, ...]
    imbalances: tuple[Imbalance, ...]
    lost_events: int

    @property
    def balanced(self) -> bool:
        """Whether every law holds and no frame or event is out of place."""
        return not self.imbalances and all(law.holds for law in self.laws)

    @property
    def verdict(self) -> Verdict:
        """PASS when balanced; INVALID when it cannot be told; else FAIL."""
        if self.balanced:
            return Verdict.PASS
        kinds = {item.kind for item in self.imbalances}
        untold = self.lost_events > 0 or kinds == {Kind.ILLEGIBLE}
        return Verdict.INVALID if untold else Verdict.FAIL

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the books are not balanced, worst first; empty when they are."""
        reasons = [str(item) for item in self.imbalances] or [
            f"broken law: {law.name} ({law.left} is not {law.right})"
            for law in self.laws
            if not law.holds and not self.lost_events
        ]
        if self.lost_events:
            reasons.insert(
                0,
                f"{self.lost_events} trace events were lost, so the books prove nothing: "
                "enlarge the guest's trace buffer or read it more often",
            )
        return tuple(reasons)

    def accounts(self) -> dict[str, int | None]:
        """Return every account by name."""
        return {field.name: getattr(self, field.name) for field in fields(Accounts)}

    def to_json(self) -> dict[str, Any]:
        """Return the whole books as JSON-able values."""
        return {
            "accounts": self.accounts(),
            "balanced": self.balanced,
            "verdict": self.verdict.value,
            "lost_events": self.lost_events,
            "per_cpu": [asdict(row) for row in self.per_cpu],
            "laws": [asdict(law) for law in self.laws],
            "imbalances": [
                {
                    "hop": item.hop,
                    "kind": item.kind.value,
                    **item.place._asdict(),
                    "count": item.count,
                    "candidates": item.candidates,
                    "frames": list(item.frames),
                    "detail": item.detail,
                }
                for item in self.imbalances
            ],
        }
