"""The books as a picture: where the frames went, stage by stage, and where they were lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from harness.trace.books import Books

COLUMNS = ("injected", "XDP program", "rings", "kthreads", "stack", "socket")
MAX_LANES = 24
"""CPUs that are drawn apart; of more, all are drawn as one."""
ALL = -1
"""Stands for all CPUs where they cannot be told apart."""


@dataclass(frozen=True, slots=True)
class Node:
    """A place that frames come to.

    Attributes:
        name: unique in a picture.
        column: index in `COLUMNS`.
        label: for people.
        frames: that came here, or left from here if those are more.
        kind: "stage"; "loss", by right; "exit", another way out; "wrong", what does not balance.
        cpu: which CPU it is about; None when about none.
    """

    name: str
    column: int
    label: str
    frames: int
    kind: str = "stage"
    cpu: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Frames that went from one node to another."""

    source: str
    target: str
    frames: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Nodes, and what flows between them; nothing flows in a circle."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class _Lane:
    cpu: int
    enqueued: int
    dropped: int
    kthread: int
    delivered: int
    socket: int | None


def draw(books: Books) -> Picture:
    """Return the picture of closed books.

    CPUs are drawn apart if frames stay on theirs from the ring on; when some change it (an entry's
    program redirects, a kthread was moved, XDP_PASS) the books do not say from where to where.
    """
    lanes = [
        _Lane(row.cpu, row.enqueued, row.dropped, row.kthread, row.delivered, row.socket)
        for row in books.per_cpu
    ]
    if not _run_straight(books, lanes):
        dropped = books.queue_drops
        lanes = [
            _Lane(ALL, books.enqueued, dropped, books.taken, books.delivered, books.socket),
        ]
    return _Drawing(books, lanes).finish()


def _run_straight(books: Books, lanes: Sequence[_Lane]) -> bool:
    lost = (books.prog_drop, books.prog_redirect, books.alloc_drops)
    return (
        len(lanes) <= MAX_LANES
        and not books.passed
        and sum(map(bool, lost)) <= 1
        and books.enqueued <= books.redirected
        and all(
            lane.enqueued - lane.dropped >= lane.kthread >= lane.delivered >= (lane.socket or 0)
            for lane in lanes
        )
    )


class _Drawing:
    """Puts the nodes of a picture side by side; what flows in but not out is named."""

    def __init__(self, books: Books, lanes: Sequence[_Lane]) -> None:
        self._nodes: dict[str, Node] = {}
        self._links: list[Link] = []
        self._books = books
        self._lanes = lanes

    def finish(self) -> Picture:
        """Draw all stages and return the picture."""
        books = self._books
        self._stage("injected", 0, "injected", books.injected)
        self._stage("seen", 1, "XDP program", books.seen)
        self._link("injected", "seen", min(books.injected, books.seen))
        self._leave("injected", 1, {"never seen by XDP": ("wrong", books.injected - books.seen)})
        self._leave(
            "seen",
            2,
            {
                "XDP_DROP": ("loss", books.dropped),
                "XDP_ABORTED": ("loss", books.aborted),
                "XDP_TX": ("exit", books.tx),
                "redirect failed": ("loss", books.redirect_errors),
            },
        )
        first = books.redirected - books.redirect_errors
        again = max(books.enqueued - first, 0)
        if again:
            self._add(Node("again", 1, "redirected by entries' programs", again, "exit"))
        for lane in self._lanes:
            self._draw_lane(lane, again)
        self._leave("seen", 2, {"redirected, never offered": ("wrong", first - books.enqueued)})
        if books.passed:
            self._link("seen", _name("stack", self._lanes[0]), books.passed)
        self._leave_all("ring", 3, "refused: ring full", "loss", lambda lane: lane.dropped)
        self._leave_all(
            "ring",
            3,
            "taken by no kthread",
            "wrong",
            lambda lane: lane.enqueued - lane.dropped - lane.kthread,
        )
        self._draw_kthread_losses()
        if books.socket is not None:
            self._draw_socket_losses(books.socket_drops)
        return Picture(tuple(self._nodes.values()), tuple(self._links))

    def _draw_lane(self, lane: _Lane, again: int) -> None:
        cpu = None if lane.cpu == ALL else lane.cpu
        of = "all CPUs" if cpu is None else f"CPU {cpu}"
        counts = {"ring": lane.enqueued, "kthread": lane.kthread, "stack": lane.delivered}
        if lane.socket is not None:
            counts["socket"] = lane.socket
        names = [_name(stage, lane) for stage in counts]
        for column, (name, frames) in enumerate(zip(names, counts.values(), strict=True), 2):
            if frames:
                self._add(Node(name, column, of, frames, cpu=cpu))
        self._link("seen", names[0], lane.enqueued - again)
        self._link("again", names[0], again)
        self._link(names[0], names[1], min(lane.enqueued - lane.dropped, lane.kthread))
        passed = self._books.passed if cpu is None else 0
        self._link(names[1], names[2], min(lane.kthread, max(lane.delivered - passed, 0)))
        if lane.socket is not None:
            self._link(names[2], names[3], min(lane.delivered, lane.socket))

    def _draw_kthread_losses(self) -> None:
        books = self._books
        lost = {
            "dropped by entry's program": ("loss", books.prog_drop),
            "redirected by entry's program": ("exit", books.prog_redirect),
            "no memory for an skb": ("loss", books.alloc_drops),
        }
        due = sum(frames for _, frames in lost.values())
        missing = books.taken - due + books.passed - books.delivered
        if len(self._lanes) == 1:
            name = _name("kthread", self._lanes[0])
            self._leave(name, 4, {**lost, "never reached the stack": ("wrong", missing)})
            return
        named = [(label, kind) for label, (kind, frames) in lost.items() if frames]
        label, kind = named[0] if named and not missing else ("never reached the stack", "wrong")
        self._leave_all("kthread", 4, label, kind, lambda lane: lane.kthread - lane.delivered)

    def _draw_socket_losses(self, drops: int) -> None:
        def short(lane: _Lane) -> int:
            return lane.delivered - (lane.socket or 0)

        by_right = sum(map(short, self._lanes)) == drops
        label = "socket buffer full" if by_right else "never reached the socket"
        self._leave_all("stack", 5, label, "loss" if by_right else "wrong", short)

    def _leave_all(
        self, stage: str, column: int, label: str, kind: str, count: Callable[[_Lane], int]
    ) -> None:
        """Let every lane leave its stage for one common node."""
        for lane in self._lanes:
            self._leave(_name(stage, lane), column, {label: (kind, count(lane))})

    def _leave(self, source: str, column: int, ways: Mapping[str, tuple[str, int]]) -> None:
        for label, (kind, frames) in ways.items():
            if frames > 0 and source in self._nodes:
                self._add(Node(label, column, label, frames, kind))
                self._link(source, label, frames)

    def _stage(self, name: str, column: int, label: str, frames: int) -> None:
        self._add(Node(name, column, label, frames))

    def _add(self, node: Node) -> None:
        known = self._nodes.get(node.name)
        frames = node.frames + (known.frames if known else 0)
        self._nodes[node.name] = Node(
            node.name, node.column, node.label, frames, node.kind, node.cpu
        )

    def _link(self, source: str, target: str, frames: int) -> None:
        if frames > 0 and source in self._nodes and target in self._nodes:
            self._links.append(Link(source, target, frames))


def _name(stage: str, lane: _Lane) -> str:
    return f"{stage} {lane.cpu}"
