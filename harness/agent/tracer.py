"""The guest's trace buffers: events switched on, read per CPU, decoded by the guest's own formats.

Source: Documentation/trace/ftrace.rst, per_cpu/cpuN/trace_pipe_raw and stats.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.agent.syscalls import Syscalls
from harness.trace.events import RingStats, Trace, decode, parse_stats
from harness.trace.format import check_header_event, parse_format, parse_header_page
from harness.trace.tally import Tally

if TYPE_CHECKING:
    from harness.agent.link import Link

ROOT = "/sys/kernel/tracing"
EVENTS = (
    "xdp/xdp_cpumap_enqueue",
    "xdp/xdp_cpumap_kthread",
    "xdp/xdp_exception",
    "xdp/xdp_redirect_err",
    "xdp/xdp_devmap_xmit",
)
BUFFER_KIB = 4096
DRAIN_BYTES = 8 << 20
AT_FDCWD = -100
O_RDONLY_NONBLOCK = 0o4000


@dataclass(frozen=True, slots=True)
class Rings:
    """What a tracer knows once it is set up; JSON data, kept with a snapshot.

    Attributes:
        fds: the agent's descriptors of each CPU's trace_pipe_raw, by CPU.
        formats: the text of each event's `format` file.
        header_page: the text of events/header_page.
    """

    fds: list[int]
    formats: list[str]
    header_page: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


def start_tracing(link: Link, cpus: int, *, buffer_kib: int = BUFFER_KIB) -> Rings:
    """Size the buffers, switch the events on and open each CPU's buffer.

    Args:
        link: to the agent.
        cpus: possible CPUs.
        buffer_kib: of each CPU's buffer, in KiB.

    Raises:
        GuestError: the kernel lacks tracefs or one of the events.
        TraceError: its ring buffer is laid out as none that the lab knows.
    """
    check_header_event(_read(link, "events/header_event"))
    link.call("write", f"{ROOT}/trace_clock", b"mono")
    link.call("write", f"{ROOT}/buffer_size_kb", str(buffer_kib).encode())
    for event in EVENTS:
        link.call("write", f"{ROOT}/events/{event}/enable", b"1")
    return Rings(
        open_rings(Syscalls(link), cpus),
        [_read(link, f"events/{event}/format") for event in EVENTS],
        _read(link, "events/header_page"),
    )


def open_rings(calls: Syscalls, cpus: int) -> list[int]:
    """Return a descriptor of the agent's of each CPU's buffer.

    Raises:
        GuestError: there is none of a CPU.
    """
    paths = [f"{ROOT}/per_cpu/cpu{cpu}/trace_pipe_raw" for cpu in range(cpus)]
    return [
        calls.must("openat", AT_FDCWD, f"{path}\0".encode(), O_RDONLY_NONBLOCK, why=path).value
        for path in paths
    ]


class Tracer:
    """Reads what the guest traced since the last time.

    Attributes:
        tally: how often each record occurred so far.
    """

    def __init__(self, link: Link, rings: Rings) -> None:
        self.tally = Tally()
        self._link = link
        self._fds = rings.fds
        self._formats = [parse_format(text) for text in rings.formats]
        self._layout = parse_header_page(rings.header_page)
        self._parts: list[Trace] = []

    def enable(self, event: str) -> None:
        """Trace one more event from here on, like "xdp/mem_disconnect": an `Event` of its fields.

        Raises:
            GuestError: the kernel has no such event.
        """
        self._formats.append(parse_format(_read(self._link, f"events/{event}/format")))
        self._link.call("write", f"{ROOT}/events/{event}/enable", b"1")

    def drain(self) -> Trace:
        """Read and return what was traced since the last time.

        Raises:
            TraceError: what was read cannot be decoded.
        """
        contents = self._link.call("drain", self._fds, DRAIN_BYTES)
        part = decode(dict(enumerate(contents)), self._formats, self._layout)
        if part.records or part.losses:
            self.tally.add(part.records)
            self._parts.append(part)
        return part

    def trace(self) -> Trace:
        """Return all that was read so far, in order of time."""
        return Trace.join(self._parts)

    def stop(self) -> None:
        """Stop tracing: what was traced can be read, and nothing more comes."""
        self._link.call("write", f"{ROOT}/tracing_on", b"0")

    def stats(self) -> list[RingStats]:
        """Return what each CPU's ring knows of itself: read, unread and lost events."""
        return [
            parse_stats(cpu, _read(self._link, f"per_cpu/cpu{cpu}/stats"))
            for cpu in range(len(self._fds))
        ]


def _read(link: Link, path: str) -> str:
    content: bytes = link.call("read", f"{ROOT}/{path}", 1 << 20)
    return content.decode()
