"""The host's end of the link: framed, numbered, checked requests, each with a deadline.

A frame is a header (magic, body length, CRC-32; u32 little endian) and a MessagePack body:
`[session, task, seq, op, args]` one way, `[session, task, seq, ok, result | [errno, why]]` the
other (guest/agent/link.h, task.c). The session is drawn anew by each link, so that a clone's agent
tells this host from the one that its template knew. A request unanswered for a while is sent again:
virtio consoles are known to lose wake-ups, and the agent never runs a request twice.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import struct
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack

from harness.errors import AgentLost, GuestError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from harness.machine.hang.findings import Hang

HEADER = struct.Struct("<III")
MAGIC = 0x4C4D5043
BODY_MAX = 64 << 20
RESEND_S = 2.0
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request on its way: what `Link.wait` needs to collect its answer."""

    task: int
    seq: int
    op: str
    frame: bytes


class Link:
    """Requests over a stream socket to the guest's agent.

    Args:
        sock: the host's end; owned by the link from here on.
        deadline_s: default deadline of one call, in host seconds.
        examine: told what the agent did not do when it is given up; says why.
        gone: says why there is nobody at the other end any more.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        deadline_s: float,
        examine: Callable[[str], Hang | None] = lambda _: None,
        gone: Callable[[], str] = lambda: "QEMU has gone",
    ) -> None:
        self._sock = sock
        self._gone = gone
        self._examine = examine
        self._deadline_s = deadline_s
        self._session = secrets.randbits(32)
        self._seq: dict[int, int] = {}
        self._input = bytearray()
        self._pending: dict[int, Ticket] = {}  # by task: each has one at a time
        self._answers: dict[tuple[int, int], Any] = {}
        sock.setblocking(False)

    def close(self) -> None:
        """Close the socket; the agent waits for another host."""
        self._sock.close()

    def hang_up(self) -> None:
        """End the link for whoever waits at it, in another thread maybe."""
        with contextlib.suppress(OSError):  # it is closed
            self._sock.shutdown(socket.SHUT_RDWR)

    def call(self, op: str, *args: Any, task: int = 0, deadline_s: float | None = None) -> Any:
        """Run one operation in the guest and return its result.

        Raises:
            GuestError: the operation failed, with the guest's errno.
            AgentLost: no answer within the deadline, or the link is closed.
        """
        return self.wait(self.send(op, *args, task=task), deadline_s=deadline_s)

    def send(self, op: str, *args: Any, task: int = 0) -> Ticket:
        """Start an operation in the guest, in thread `task` of the agent (0: its main loop).

        Raises:
            AgentLost: the task has not ended the operation before, or the link is closed.
            UserError: the arguments are larger than a request can be.
        """
        seq = self._seq.get(task, 0) + 1
        body: bytes = msgpack.packb([self._session, task, seq, op, args])
        if len(body) > BODY_MAX:
            raise UserError(f"a request of {len(body)} bytes ({op!r}): {BODY_MAX >> 20} MiB fit")
        if task in self._pending:  # late, maybe, but here
            self._pull(0, op)
        if before := self._pending.get(task):
            raise self._lost(f"the guest's agent is still at {before.op!r}: it cannot do {op!r}")
        self._seq[task] = seq
        frame = HEADER.pack(MAGIC, len(body), zlib.crc32(body)) + body
        ticket = self._pending[task] = Ticket(task, seq, op, frame)
        self._push(frame, time.monotonic() + self._deadline_s, op)
        return ticket

    def wait(self, ticket: Ticket, *, deadline_s: float | None = None) -> Any:
        """Return the result of a request that was sent, waiting for it within the deadline.

        Raises:
            GuestError: the operation failed, with the guest's errno.
            AgentLost: no answer within the deadline, or the link is closed.
        """
        limit = self._deadline_s if deadline_s is None else deadline_s
        deadline = time.monotonic() + limit
        resend = time.monotonic() + RESEND_S
        while (ticket.task, ticket.seq) not in self._answers:
            now = time.monotonic()
            if now >= deadline:
                raise self._lost(
                    f"the guest's agent did not answer {ticket.op!r} within {limit:.0f} s"
                )
            if now >= resend:
                self._push(ticket.frame, deadline, ticket.op)
                resend = now + RESEND_S
            self._pull(min(deadline, resend) - now, ticket.op)
        ok, result = self._answers.pop((ticket.task, ticket.seq))
        if ok:
            return result
        errno, why = result
        raise GuestError(f"{ticket.op} failed in the guest with errno {errno}: {why}", errno=errno)

    def is_answered(self, ticket: Ticket) -> bool:
        """Tell whether a request's answer has come; `wait` still returns it.

        Raises:
            AgentLost: the link is closed.
        """
        self._pull(0, ticket.op)
        return (ticket.task, ticket.seq) in self._answers

    def watch(self, tickets: Collection[Ticket], files: Sequence[int] = ()) -> list[int]:
        """Wait a while for any of several answers, or for files of the host's to become readable.

        Requests that stay unanswered are sent again: for whoever waits without a deadline.

        Returns:
            Those of the files that can be read.

        Raises:
            AgentLost: the link is closed.
        """
        waiting = [each for each in tickets if (each.task, each.seq) not in self._answers]
        is_answered = len(waiting) < len(tickets)
        own = self._sock.fileno()
        ready = select.select([own, *files], [], [], 0 if is_answered else RESEND_S)[0]
        if own in ready:
            self._pull(0, waiting[0].op if waiting else "an answer")
        elif not ready and not is_answered:
            for each in waiting:
                self._push(each.frame, time.monotonic() + self._deadline_s, each.op)
        return [file for file in ready if file != own]

    @contextlib.contextmanager
    def within(self, deadline_s: float) -> Iterator[None]:
        """Have calls without a deadline of their own take so many seconds in a `with` block."""
        usual, self._deadline_s = self._deadline_s, deadline_s
        try:
            yield
        finally:
            self._deadline_s = usual

    def _lost(self, what: str) -> AgentLost:
        return AgentLost(what, hang=self._examine(what))

    def _closed(self, doing: str) -> AgentLost:
        return self._lost(f"the link closed while {doing}: {self._gone()}")

    def _push(self, data: bytes, deadline: float, op: str) -> None:
        view = memoryview(data)
        while view:
            left = deadline - time.monotonic()
            ready = select.select([self._sock], [self._sock], [], max(left, 0))
            if left <= 0 or not any(ready):
                raise self._lost(f"the guest did not take the request {op!r}: its console is stuck")
            if ready[0]:  # the agent may be waiting for us to read another task's answer
                self._pull(0, op)
            if not ready[1]:
                continue
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._closed(f"sending {op!r}") from error

    def _pull(self, timeout_s: float, op: str) -> None:
        if not select.select([self._sock], [], [], max(timeout_s, 0))[0]:
            return
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise self._closed(f"waiting for {op!r}")
        self._input += data
        while (answer := take_frame(self._input)) is not None:
            self._keep(answer)

    def _keep(self, body: bytes) -> None:
        try:
            session, task, seq, ok, result = msgpack.unpackb(body, strict_map_key=False)
        except (ValueError, TypeError, msgpack.UnpackException):
            return  # no agent wrote that
        # another session's answer, or one that a resend brought twice, is nobody's
        if session != self._session or task not in self._pending:
            return
        if self._pending[task].seq == seq:
            del self._pending[task]
            self._answers[task, seq] = (ok, result)


def take_frame(data: bytearray) -> bytes | None:
    """Take the first whole, sound frame's body off the front of `data`; None if there is none yet.

    Bytes that belong to no sound frame are dropped.
    """
    while len(data) >= HEADER.size:
        magic, length, crc = HEADER.unpack_from(data)
        if magic != MAGIC or length > BODY_MAX:
            start = data.find(MAGIC.to_bytes(4, "little"), 1)
            del data[: start if start > 0 else max(len(data) - 3, 1)]
            continue
        if len(data) < HEADER.size + length:
            return None
        body = bytes(data[HEADER.size : HEADER.size + length])
        if zlib.crc32(body) == crc:
            del data[: HEADER.size + length]
            return body
        del data[:1]
    return None
