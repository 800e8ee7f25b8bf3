from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from harness.report.flow import ALL, MAX_LANES, Picture, draw
from harness.tests.ledger_worlds import Plan, World
from harness.tests.stories import world
from harness.trace.books import CpuRow
from harness.trace.events import XdpAction
from harness.trace.ledger import close_books

if TYPE_CHECKING:
    from harness.trace.books import Books

ALL_VERDICTS = tuple(XdpAction)


def books(**plan: Any) -> Books:
    closed = world(**plan).books
    assert closed is not None
    return closed


def check(picture: Picture) -> None:
    """What goes into a stage comes out of it, and losses are as large as what leads there."""
    into: Counter[str] = Counter()
    out: Counter[str] = Counter()
    places = {node.name: node for node in picture.nodes}
    assert len(places) == len(picture.nodes)
    for link in picture.links:
        assert link.frames > 0
        assert places[link.source].column <= places[link.target].column
        out[link.source] += link.frames
        into[link.target] += link.frames
    ends = max(node.column for node in picture.nodes)
    for node in picture.nodes:
        if node.name not in ("injected", "again"):
            assert into[node.name] == node.frames, node
        if node.kind == "stage" and node.column < ends:
            assert out[node.name] == node.frames, node


def sized(picture: Picture, kind: str) -> dict[str, int]:
    return {node.label: node.frames for node in picture.nodes if node.kind == kind}


def test_cpus_are_drawn_apart() -> None:
    picture = draw(books())
    assert {node.cpu for node in picture.nodes} == {None, 2, 3}
    assert sized(picture, "loss") == {}
    check(picture)


def test_every_loss_is_named_and_sized() -> None:
    plan = {"verdicts": ALL_VERDICTS, "prog": True, "full": 0.2, "no_target": 0.1, "no_skb": 0.1}
    closed = books(frames=600, socket_full=0.2, redirect_error=0.1, **plan)
    picture = draw(closed)
    assert sized(picture, "loss") == {
        "XDP_DROP": closed.dropped,
        "XDP_ABORTED": closed.aborted,
        "redirect failed": closed.redirect_errors,
        "refused: ring full": closed.queue_drops,
        "dropped by entry's program": closed.prog_drop,
        "no memory for an skb": closed.alloc_drops,
        "socket buffer full": closed.socket_drops,
    }
    assert sized(picture, "exit")["XDP_TX"] == closed.tx
    assert all(node.cpu is None for node in picture.nodes)
    check(picture)


def test_nothing_flows_in_a_circle() -> None:
    closed = books(frames=400, chain=True, prog=True)
    picture = draw(closed)
    again = closed.enqueued - closed.redirected + closed.redirect_errors
    assert sized(picture, "exit")["redirected by entries' programs"] == again
    check(picture)


@pytest.mark.parametrize("seed", range(60))
def test_frames_are_conserved_whatever_happens(seed: int) -> None:
    lot = random.Random(seed)
    chances = ("full", "redirect_error", "no_target", "no_skb", "socket_full")
    plan: dict[str, Any] = {name: lot.choice((0.0, 0.2)) for name in chances}
    plan |= {name: lot.random() < 0.3 for name in ("prog", "chain", "socket")}
    verdicts = lot.choice(((XdpAction.REDIRECT,), ALL_VERDICTS))
    check(draw(books(frames=200, seed=seed, verdicts=verdicts, **plan)))


def test_what_is_missing_is_drawn_as_wrong() -> None:
    evidence, known = World(Plan(socket=True)).run()
    evidence.arrived.count[7] = evidence.arrived.cpu[7] = 0
    assert evidence.socket is not None
    evidence.socket.counts[7] = 0  # type: ignore[index]
    picture = draw(close_books(evidence, known))
    assert sized(picture, "wrong") == {"never reached the stack": 1}
    check(picture)
    evidence.seen.count[9] = 0
    assert "never seen by XDP" in sized(draw(close_books(evidence, known)), "wrong")


def test_too_many_cpus_are_drawn_as_one() -> None:
    closed = books()
    rows = tuple(CpuRow(cpu, 1, 0, 1, 1, 1) for cpu in range(MAX_LANES + 1))
    picture = draw(replace(closed, per_cpu=rows))
    assert f"ring {ALL}" in {node.name for node in picture.nodes}


def test_no_socket_no_column() -> None:
    assert max(node.column for node in draw(books(socket=False)).nodes) == 4
