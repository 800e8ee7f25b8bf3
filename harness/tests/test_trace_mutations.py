"""Every single change to what was observed in a balanced run must unbalance its books.

What no witness can see is listed in `is_invisible`, each with its reason.
"""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import pytest

from harness.tests.ledger_worlds import Plan, World, recount
from harness.trace.events import (
    CpumapEnqueue,
    CpumapKthread,
    Record,
    TypedRecord,
    XdpAction,
    XdpDevmapXmit,
    XdpException,
    XdpRedirect,
    XdpRedirectErr,
)
from harness.trace.ledger import (
    Circumstances,
    Evidence,
    Hop,
    HopTable,
    Mode,
    SocketCounts,
    close_books,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ABORTED, DROP, PASS, TX, REDIRECT = XdpAction
ALL_VERDICTS = (REDIRECT,) * 6 + (PASS, DROP, TX, ABORTED)

PLANS = {
    "native": Plan(),
    "native full": Plan(full=0.3, redirect_error=0.1, no_target=0.1),
    "native verdicts": Plan(verdicts=ALL_VERDICTS, full=0.1, socket=True, socket_full=0.1),
    "native prog": Plan(prog=True, full=0.1, no_skb=0.1),
    "native chain": Plan(prog=True, chain=True, full=0.1),
    "generic": Plan(mode=Mode.GENERIC, full=0.2, redirect_error=0.1),
    "generic prog": Plan(mode=Mode.GENERIC, prog=True, full=0.1),
    "generic chain": Plan(mode=Mode.GENERIC, prog=True, chain=True, full=0.2),
    "generic prog 6.1": Plan(mode=Mode.GENERIC, prog=True, kernel=(6, 1, 192), full=0.1),
    "mixed prog": Plan(mode=Mode.MIXED, prog=True, full=0.1),
    "mixed prog 6.1": Plan(mode=Mode.MIXED, prog=True, kernel=(6, 1, 192), full=0.1),
    "5.10": Plan(kernel=(5, 10, 223), no_skb=0.1, verdicts=ALL_VERDICTS),
    "gro": Plan(gro=True, socket=True, full=0.1, verdicts=(REDIRECT, REDIRECT, PASS)),
    "unpinned": Plan(pinned=False, prog=True, full=0.1, no_skb=0.1),
    "live": Plan(live=48, verdicts=ALL_VERDICTS, redirects_traced=False),
    "live and wire": Plan(live=20, verdicts=ALL_VERDICTS, redirects_traced=False),
}


@pytest.mark.parametrize("name", PLANS)
def test_balanced_worlds_balance(name: str) -> None:
    for seed in range(25):
        world = World(dataclasses.replace(PLANS[name], seed=seed))
        books = close_books(*world.run())
        assert books.balanced, (seed, books.reasons)
        assert books.verdict == "pass"


@pytest.mark.parametrize("name", PLANS)
def test_every_perturbation_is_seen(name: str) -> None:
    evidence, known = World(dataclasses.replace(PLANS[name], frames=24, seed=3)).run()
    rng = random.Random(5)
    missed = []
    tried = 0
    for what, perturbed in perturb(evidence, known, rng):
        tried += 1
        if close_books(perturbed, known).balanced:
            missed.append(what)
    assert tried > 300
    assert not missed, f"{len(missed)} of {tried}: {missed[:5]}"


def perturb(
    evidence: Evidence, known: Circumstances, rng: random.Random
) -> Iterator[tuple[str, Evidence]]:
    """Yield what was changed and the evidence so changed; what is invisible is left out."""
    for step in (-1, 1):
        yield (
            f"injected {step:+}",
            dataclasses.replace(evidence, injected=evidence.injected + step, flows=None),
        )
    yield from perturb_hops(evidence, known, rng)
    yield from perturb_records(evidence, known, rng)
    yield from perturb_socket(evidence, known)
    for index, ring in enumerate(evidence.rings):
        for field in dataclasses.fields(ring)[1:]:
            changed = dataclasses.replace(ring, **{field.name: getattr(ring, field.name) + 1})
            rings = (*evidence.rings[:index], changed, *evidence.rings[index + 1 :])
            yield f"ring {ring.cpu} {field.name}", dataclasses.replace(evidence, rings=rings)


def perturb_hops(
    evidence: Evidence, known: Circumstances, rng: random.Random
) -> Iterator[tuple[str, Evidence]]:
    tables = {"seen": evidence.seen, "arrived": evidence.arrived}
    for hop, table in tables.items():
        hops = [table[frame] for frame in range(len(table))]
        for frame, old in enumerate(hops):
            for field in dataclasses.fields(Hop):
                value = getattr(old, field.name)
                new = dataclasses.replace(old, **{field.name: other_value(field.name, value, rng)})
                if is_invisible_hop(hop, frame, old, new, evidence, known):
                    continue
                changed = HopTable.of([*hops[:frame], new, *hops[frame + 1 :]])
                yield f"{hop} {frame}: {old} -> {new}", with_table(evidence, hop, changed)
            if old.count:
                changed = HopTable.of([*hops[:frame], Hop(), *hops[frame + 1 :]])
                yield f"{hop} {frame}: forgotten", with_table(evidence, hop, changed)


def perturb_records(
    evidence: Evidence, known: Circumstances, rng: random.Random
) -> Iterator[tuple[str, Evidence]]:
    records = evidence.trace.records
    for index, old in enumerate(records):
        assert not hasattr(old, "fields")
        rest = (*records[:index], *records[index + 1 :])
        if not is_idle(old, known):
            yield f"removed {old}", recount(evidence, rest)
            yield f"doubled {old}", recount(evidence, (*records, old))
        for field in dataclasses.fields(old):
            value = getattr(old, field.name)
            change: dict[str, Any] = {field.name: other_value(field.name, value, rng)}
            new = dataclasses.replace(old, **change)
            if not is_invisible(old, new, field.name, known):
                changed = (*records[:index], new, *records[index + 1 :])
                yield (
                    f"{old} -> {field.name}={getattr(new, field.name)}",
                    recount(evidence, changed),
                )


def perturb_socket(evidence: Evidence, known: Circumstances) -> Iterator[tuple[str, Evidence]]:
    socket = evidence.socket
    if socket is None:
        return
    for frame, count in enumerate(socket.counts):
        for new in {count + 1, max(count - 1, 0)} - {count}:
            counts = [*socket.counts[:frame], new, *socket.counts[frame + 1 :]]
            yield (
                f"socket {frame}: {count} -> {new}",
                dataclasses.replace(evidence, socket=SocketCounts(counts, socket.drops)),
            )
    changed = SocketCounts(socket.counts, socket.drops + 1)
    yield "socket drops", dataclasses.replace(evidence, socket=changed)


def with_table(evidence: Evidence, hop: str, table: HopTable) -> Evidence:
    if hop == "seen":
        return dataclasses.replace(evidence, seen=table)
    return dataclasses.replace(evidence, arrived=table)


def other_value(name: str, value: int, rng: random.Random) -> Any:
    if name == "verdict":
        return rng.choice([verdict for verdict in (*XdpAction, 99) if verdict != value])
    if name in ("cpu", "to_cpu") and value == 0xFFFF:
        return rng.choice((0, 2))
    return value + 1 if value == 0 else value + rng.choice((-1, 1))


def is_idle(record: Record, known: Circumstances) -> bool:
    """Whether a record moves no frame that anything else witnesses."""
    match record:
        case CpumapKthread():
            # A kthread that is woken to stop says that it took nothing.
            return record.processed == 0
        case XdpException() | XdpRedirectErr():
            # Only some drops of an entry's program leave a trace: their number is a bound.
            return record.prog_id in known.entry_prog_ids
        case XdpDevmapXmit():
            return record.sent + record.drops == 0
    return False


def is_invisible(old: TypedRecord, new: Record, field: str, known: Circumstances) -> bool:
    """Whether nothing that is observed could contradict this change of a record."""
    # Times order the records and no law is about times. Where a frame goes out is no account.
    if field in ("ts", "to_ifindex", "from_ifindex"):
        return True
    match old, new:
        case CpumapKthread(), CpumapKthread():
            return (
                # A kthread sleeps as it likes.
                (field == "sched" and new.sched in (0, 1))
                # The kernel does not say which of these frames the stack took.
                or (field == "drops" and known.counts_stack_drops)
                # Passed skbs are not counted, so passed frames are a bound.
                or (
                    field == "xdp_pass" and known.mode is Mode.MIXED and not known.counts_every_pass
                )
            )
        case XdpDevmapXmit(), XdpDevmapXmit():
            return field in ("act", "err")
        case XdpRedirectErr(), XdpRedirectErr():
            entry = old.prog_id in known.entry_prog_ids
            if entry and new.prog_id in known.entry_prog_ids:
                # A bound on the drops of its program, see is_idle. A full ring is exact.
                return old.err != -28 or field == "prog_id"
            # No account is kept by errno, but that a full ring is -ENOSPC; nor by index where
            # the map is none of ours.
            ours = old.map_id in known.map_ids
            return (field == "err" and -28 not in (old.err, new.err)) or (
                not ours and field in ("map_index", "map_id") and new.map_id not in known.map_ids
            )
        case XdpRedirect(), XdpRedirect():
            # Which of the programs in play it was makes no difference to any account, nor which
            # device a frame leaves by.
            return (
                field == "prog_id" and new.prog_id in known.prog_ids | known.entry_prog_ids
            ) or (field in ("map_id", "map_index") and not {old.map_id, new.map_id} & known.map_ids)
    return False


def is_invisible_hop(
    hop: str, frame: int, old: Hop, new: Hop, evidence: Evidence, known: Circumstances
) -> bool:
    """Whether nothing that is observed could contradict this change of a note."""
    if not new.count and not old.count:
        return True  # the rest of a note that was never made means nothing
    if new.rx_queue != old.rx_queue:
        return True  # a NIC may choose as it likes
    seen, arrived = evidence.seen[frame], evidence.arrived[frame]
    if new.length != old.length:
        # Only a frame that both hops noted, unmerged, is compared.
        return known.gro or not (arrived.count and seen.length and arrived.length)
    if hop == "arrived":
        if new.cpu != old.cpu:
            # The CPU of an unpinned kthread is anybody's guess, where running numbers allow it.
            return not known.pinned
        return new.verdict != old.verdict or new.to_cpu != old.to_cpu
    if new.to_cpu != old.to_cpu:
        # Without a redirect the target means nothing.
        return old.verdict != REDIRECT
    if new.verdict != old.verdict:
        # Dropped frames have no other witness; nor have transmitted ones, nor aborted live ones.
        live = any(frame in numbers for numbers in known.live)
        untold = {DROP} | ({ABORTED, 99} if live else {TX})
        return {new.verdict, old.verdict} <= untold
    return False


def test_documented_blind_spots_are_blind() -> None:
    """The list above must not hide what is in fact seen: spot checks that it is not too wide."""
    evidence, known = World(PLANS["native prog"]).run()
    records = evidence.trace.records
    for old in records:
        if isinstance(old, CpumapKthread):
            new = dataclasses.replace(old, sched=1 - old.sched)
            changed = tuple(new if record is old else record for record in records)
            assert close_books(recount(evidence, changed), known).balanced
        if isinstance(old, CpumapEnqueue):
            assert not is_idle(old, known)
