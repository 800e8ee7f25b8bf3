"""What a program can do with a cpumap: redirect into it, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.agent import insns
from harness.agent.bpf import Program, load_program, run_program, start_live
from harness.answers import Answers
from harness.model.gates import LIVE_FRAMES
from harness.trace.events import CpumapEnqueue, CpumapKthread

if TYPE_CHECKING:
    from harness.casework import Casework

EINVAL = 22
HELPERS = {
    "bpf_map_lookup_elem": insns.MAP_LOOKUP_ELEM,
    "bpf_map_update_elem": insns.MAP_UPDATE_ELEM,
    "bpf_map_delete_elem": insns.MAP_DELETE_ELEM,
    "bpf_map_push_elem": insns.MAP_PUSH_ELEM,
    "bpf_map_pop_elem": insns.MAP_POP_ELEM,
    "bpf_map_peek_elem": insns.MAP_PEEK_ELEM,
}
STACK = b"".join(insns.store(offset, 0) for offset in (-16, -12, -8, -4))


def with_map_first(helper: int, fd: int) -> bytes:
    """Return a program that calls helper(map, &key, &value, 0)."""
    return b"".join(
        (
            STACK,
            insns.load_map(insns.R1, fd),
            insns.copy(insns.R2, insns.R10),
            insns.add(insns.R2, -16),
            insns.copy(insns.R3, insns.R10),
            insns.add(insns.R3, -8),
            insns.mov(insns.R4, 0),
            insns.call(helper),
            insns.answer(2),
        )
    )


@pytest.mark.proves("cpu_map_ops", "a program can redirect into a map and do nothing else with it")
@pytest.mark.parametrize("value_size", [4, 8])
def test_the_verifier_refuses_every_other_helper(lab: Casework, value_size: int) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap(value_size=value_size)
        for name, helper in HELPERS.items():
            result, log = load_program(ask.calls, with_map_first(helper, cpumap.fd), attach_type=0)
            ask.check(f"load of a program that calls {name}", EINVAL, result.errno)
            refused = f"cannot pass map_type 16 into func {name}#{helper}"
            ask.check(f"the verifier on {name}", refused, refused if refused in log else log)
        jump = b"".join(
            (
                insns.load_map(insns.R2, cpumap.fd),
                insns.mov(insns.R3, 0),
                insns.call(insns.TAIL_CALL),
                insns.answer(2),
            )
        )
        result, _ = load_program(ask.calls, jump, attach_type=0)
        ask.check("load of a program that jumps through it", EINVAL, result.errno)


@pytest.mark.proves("cpu_map_redirect", "it answers XDP_REDIRECT where there is an entry")
@pytest.mark.proves(
    "cpu_map_redirect", "without an entry it answers the action in the low two bits of its flags"
)
@pytest.mark.proves(
    "cpu_map_redirect", "any other bit in its flags is XDP_ABORTED, with an entry or without"
)
@pytest.mark.parametrize("value_size", [4, 8])
def test_redirect_answers_by_entry_and_flags(lab: Casework, value_size: int) -> None:
    """The low two bits name the action for a missing entry; any other bit is an error."""
    with Answers(lab) as ask:
        cpumap = ask.cpumap(value_size=value_size)
        cpumap.update(1)
        for flags in (0, 1, 2, 3, 4, 5, 7, 8, 16, 24, 1 << 31, 1 << 32, 1 << 63):
            for key in (1, 2, 4):
                ask.redirects(cpumap, key, flags)


@pytest.mark.proves("__cpu_map_lookup_elem", "a key counts to 32 bits")
def test_redirect_takes_keys_of_32_bits(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        cpumap.update(1)
        for key in (0, 1, 3, 4, 5, (1 << 31) + 1, (1 << 32) - 1, (1 << 32) + 1, (1 << 63) + 1):
            ask.redirects(cpumap, key, flags=2)
        cpumap.delete(1)
        ask.redirects(cpumap, 1, flags=2)


@pytest.mark.proves("cpu_map_redirect", "it redirects into a map that it finds in a map of maps")
def test_redirects_into_a_map_in_a_map(lab: Casework) -> None:
    with Answers(lab) as ask:
        inner = [ask.cpumap(), ask.cpumap()]
        inner[1].update(1)
        outer = ask.map_of_maps(inner)
        for place, cpumap in enumerate(inner):
            for key, flags in ((1, 0), (1, 2), (2, 2), (4, 1)):
                code = insns.redirect_by(outer.fd, place, key, flags)
                program = Program(ask.calls, ask.program(code=code, attach_type=0).fd)
                action = run_program(ask.calls, program)[1]
                says = cpumap.model.map.cpu_map_redirect(key, flags)
                ask.check(f"redirect by map {place}, key {key}, flags {flags}", (says,), (action,))


@pytest.mark.proves("cpu_map_redirect", "it redirects into a map that it finds in a map of maps")
def test_frames_go_by_a_map_in_a_map(lab: Casework) -> None:
    lab.needs(LIVE_FRAMES)
    with Answers(lab) as ask:
        inner = [ask.cpumap(), ask.cpumap()]
        inner[1].update(2)
        code = insns.redirect_by(ask.map_of_maps(inner).fd, 1, 2)
        program = Program(ask.calls, ask.program(code=code, attach_type=0).fd)
        how = {"ifindex": lab.guest.ifindex["eth0"], "repeat": 20, "batch": 20}
        ask.calls.collect(start_live(ask.calls, program, bytes(64), **how)).must("live frames")
        lab.wait_for(lambda: sum(r.processed for r in lab.records(CpumapKthread)) == 20)
        taken = {(r.map_id, r.kthread_cpu): r.processed for r in lab.records(CpumapKthread)}
        offered = [(r.map_id, r.to_cpu, r.processed) for r in lab.records(CpumapEnqueue)]
        assert offered == [(inner[1].map_id, 2, n) for n in (8, 8, 4)]
        assert set(taken) == {(inner[1].map_id, 2)}
