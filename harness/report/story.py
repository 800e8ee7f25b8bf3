"""What a finished run leaves behind for all who render it: page, trace, pcaps, artifacts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.report.record import RunRecord
    from harness.trace.books import Books
    from harness.trace.events import Record
    from harness.trace.latency import Waits


@dataclass(frozen=True, slots=True)
class Ring:
    """The ring of one entry.

    Attributes:
        map_id: of its cpumap.
        cpu: its key.
        qsize: frames that it holds; of an element that was replaced, the last.
    """

    map_id: int
    cpu: int
    qsize: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame that reached the stack.

    Attributes:
        frame: its number.
        cpu: where.
        order: its running number among the frames of this CPU, from 1.
    """

    frame: int
    cpu: int
    order: int


@dataclass(frozen=True, slots=True)
class Expectation:
    """What had to come out, beside what did.

    Attributes:
        what: the question.
        expected: the answer that was expected, for people.
        found: the answer that was found.
        met: whether they agree.
    """

    what: str
    expected: str
    found: str
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that is left of a run, however far it came.

    Attributes:
        record: what is told of it in short.
        books: its closed books; None when it ended before.
        records: its trace, in order of time.
        waits: how long frames waited in rings, by CPU; no verdict depends on it.
        rings: of its entries.
        frames: what was injected, by frame number; perhaps only the first of them.
        arrivals: what of it reached the stack.
        expectations: what its scenario or its case asked of it.
        console, dmesg: what the guest said.
        argv: QEMU's command line.
        repeat: the command that does it again; "" when there is none.
        hang: what was found out about a guest that kept the lab waiting; "" when it did not.
    """

    record: RunRecord
    books: Books | None = None
    records: Sequence[Record] = ()
    waits: Mapping[int, Waits] = field(default_factory=dict)
    rings: Sequence[Ring] = ()
    frames: Sequence[bytes] = ()
    arrivals: Sequence[Arrival] = ()
    expectations: Sequence[Expectation] = ()
    console: str = ""
    dmesg: str = ""
    argv: Sequence[str] = ()
    repeat: str = ""
    hang: str = ""
