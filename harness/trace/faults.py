"""Trace records that cpumap.c cannot have emitted, each judged by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.trace.books import Kind
from harness.trace.events import (
    CpumapEnqueue,
    CpumapKthread,
    XdpAction,
    XdpException,
    XdpRedirect,
    XdpRedirectErr,
)
from harness.trace.evidence import Mode
from harness.trace.tally import Place

if TYPE_CHECKING:
    from harness.trace.auditor import Auditor
    from harness.trace.evidence import Circumstances
    from harness.trace.tally import Tally

_BULK = 8
"""CPU_MAP_BULK_SIZE and CPUMAP_BATCH, in all versions."""


def find_faults(audit: Auditor, tally: Tally, known: Circumstances) -> None:
    """Blame every record of a cpumap, an entry or a program not in play, or of impossible shape."""
    for record, times in tally:
        match record:
            case CpumapEnqueue():
                hop, place = "enqueued", Place(record.map_id, record.producer, record.to_cpu)
                stray = _not_in_play(record.map_id, record.to_cpu, known, keyed=True)
                fault = _enqueue_fault(record, known)
            case CpumapKthread():
                hop, place = "taken", Place(map_id=record.map_id, cpu=record.kthread_cpu)
                stray = _not_in_play(record.map_id, record.kthread_cpu, known, keyed=known.pinned)
                fault = _kthread_fault(record, known)
            case XdpRedirect() | XdpRedirectErr():
                hop, place = "enqueued", Place(producer=record.cpu, cpu=record.map_index)
                stray = _foreign(record, known)
                fault = _redirect_fault(record)
            case XdpException():
                hop, place = "exceptions", Place(producer=record.cpu)
                stray = _foreign(record, known)
                fault = ""
            case _:
                continue
        if stray:
            audit.blame(hop, Kind.STRAY, place, times, stray)
        if fault:
            audit.blame(hop, Kind.MALFORMED, place, times, fault)


def _not_in_play(map_id: int, cpu: int, known: Circumstances, *, keyed: bool) -> str:
    if map_id not in known.map_ids:
        return f"events of cpumap {map_id}, which is not in play"
    for cpumap in known.cpumaps:
        if keyed and cpumap.map_id == map_id and all(e.cpu != cpu for e in cpumap.entries):
            return f"events of an entry {cpu} that cpumap {map_id} never had"
    return ""


def _foreign(event: XdpRedirect | XdpRedirectErr | XdpException, known: Circumstances) -> str:
    if event.prog_id not in known.prog_ids | known.entry_prog_ids:
        return f"events of program {event.prog_id}, which is not in play"
    if known.ifindexes and event.ifindex not in known.ifindexes:
        return f"events of interface {event.ifindex}, by which no frame comes in"
    return ""


def _enqueue_fault(event: CpumapEnqueue, known: Circumstances) -> str:
    native = 1 <= event.processed <= _BULK and 0 <= event.drops <= event.processed
    generic = (event.processed, event.drops) in ((1, 0), (0, 1))
    sound = {
        Mode.NATIVE: native,
        Mode.GENERIC: generic,
        Mode.MIXED: native or generic,
    }[known.mode]
    if not sound:
        return f"{known.mode} enqueue with processed={event.processed} drops={event.drops}"
    if event.producer != event.cpu:
        return f"CPU {event.cpu} recorded an enqueue that names CPU {event.producer}"
    return _act_fault(event.act)


def _kthread_fault(event: CpumapKthread, known: Circumstances) -> str:
    if not 0 <= event.processed <= _BULK:
        return f"kthread took {event.processed} frames at once"
    if event.kthread_cpu != event.cpu:
        return f"CPU {event.cpu} recorded a kthread that names CPU {event.kthread_cpu}"
    if event.sched not in (0, 1):
        return f"kthread with sched={event.sched}"
    if not 0 <= event.drops <= max(event.passed, 0):
        return f"kthread dropped {event.drops} frames on their way, of {event.passed}"
    verdicts = event.xdp_pass + event.xdp_drop + event.xdp_redirect
    whole = verdicts == event.processed
    if not known.counts_every_pass:
        whole = verdicts <= event.processed and (known.mode is Mode.MIXED or event.xdp_pass == 0)
    programs = {bool(entry.prog_id) for entry in known.entries_at(event.map_id, event.kthread_cpu)}
    if programs and not (whole and True in programs) and not (not verdicts and False in programs):
        return (
            f"kthread of an entry {'with' if True in programs else 'without'} a program: "
            f"processed={event.processed} xdp_pass={event.xdp_pass} "
            f"xdp_drop={event.xdp_drop} xdp_redirect={event.xdp_redirect}"
        )
    return _act_fault(event.act)


def _redirect_fault(event: XdpRedirect | XdpRedirectErr) -> str:
    if event.err >= 0 if isinstance(event, XdpRedirectErr) else event.err != 0:
        return f"redirect with err={event.err}"
    return _act_fault(event.act)


def _act_fault(act: int) -> str:
    return "" if act == XdpAction.REDIRECT else f"action {act} where it is always XDP_REDIRECT"
