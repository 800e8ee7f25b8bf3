"""Programs in entries: which may be there, who holds them, and for how long."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from harness.agent.bpf import (
    ATTACH_XDP,
    ATTACH_XDP_CPUMAP,
    ATTACH_XDP_DEVMAP,
    F_XDP_DEV_BOUND_ONLY,
    F_XDP_HAS_FRAGS,
    LINK_CREATE,
    PROG_TYPE_SOCKET_FILTER,
    XDP_MODES,
    Program,
    bpf,
    run_program,
)
from harness.answers import CLOSED_FD, Answers
from harness.model import gates
from harness.model.control import NotProg
from harness.twin import Ref, Twin

if TYPE_CHECKING:
    from harness.casework import Casework

EINVAL = 22
OPEN, CLOSED = NotProg(open=True), NotProg(open=False)
AT_FDCWD, PROG_TYPE_SCHED_CLS = -100, 3


def bad_programs(ask: Answers, cpumap: Twin) -> list[Ref]:
    """Return descriptors of everything that is no program for a cpumap."""
    file = ask.calls.must("openat", AT_FDCWD, b"/proc/version\0", 0).value
    kinds: list[dict[str, int]] = [
        {"attach_type": ATTACH_XDP},
        {"attach_type": 0},
        {"attach_type": ATTACH_XDP_DEVMAP},
        {"type": PROG_TYPE_SOCKET_FILTER},  # of the right attach type, which is not looked at
        {"type": PROG_TYPE_SOCKET_FILTER, "attach_type": 0},
        {"type": PROG_TYPE_SCHED_CLS, "attach_type": 0},
    ]
    return [
        Ref(CLOSED_FD, CLOSED),
        Ref(1 << 30, CLOSED),
        Ref(ask.own(file), OPEN),
        Ref(cpumap.fd, OPEN),
        *(ask.program(**kind) for kind in kinds),
    ]


@pytest.mark.smoke
@pytest.mark.proves("__cpu_map_load_bpf_program", "the entry's value names its program by id")
def test_the_value_names_the_program(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap, other = ask.cpumap(), ask.cpumap()
        first, second = ask.program(), ask.program()
        for prog in (first, second, None, first):
            cpumap.update(0, 64, prog)
            cpumap.update(1, 65, first)
            other.update(0, 66, prog)
            for key in range(4):
                cpumap.lookup(key)


@pytest.mark.proves(
    "__cpu_map_load_bpf_program",
    "what is no program for cpumaps is refused: EBADF or EINVAL",
    since=gates.PROGRAM_ERRNO,
)
@pytest.mark.proves(
    "__cpu_map_entry_alloc", "any program that is refused is ENOMEM", until=gates.PROGRAM_ERRNO
)
@pytest.mark.proves("cpu_map_update_elem", "an update that fails leaves the old entry in place")
def test_bad_programs_change_nothing(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        good = ask.program()
        for bad in bad_programs(ask, cpumap):
            ask.cpumap().update(0, 64, bad)  # the first program of a map settles its type
            cpumap.update(0, 64, bad)
            cpumap.update(1, 64, good)
            cpumap.update(1, 65, bad)
            cpumap.update(1, 66, bad, flags=2)


@pytest.mark.proves("cpu_map_update_elem", "a qsize of 0 deletes, whatever program is named")
def test_a_deletion_looks_at_no_program(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        for bad in bad_programs(ask, cpumap):
            cpumap.update(0, 64)
            cpumap.update(0, 0, bad)


@pytest.mark.proves("__cpu_map_entry_alloc", "a descriptor of 0 or less is no program")
def test_descriptors_up_to_0_are_no_program(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        for fd in (0, -1, -100, -(1 << 31)):
            cpumap.update(0, 64, Ref(fd, None))


@pytest.mark.proves("__cpu_map_entry_alloc", "a descriptor of 1 may be a program's")
def test_the_lowest_descriptor_may_be_a_programs(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap, program = ask.cpumap(), ask.program()
        ask.calls.must("close", 1)
        assert ask.calls.must("dup", program.fd).value == 1
        cpumap.update(0, 64, Ref(1, program.model))
        cpumap.lookup(0)


@pytest.mark.proves("cpu_map_update_elem", "a value of 4 bytes has no program")
def test_a_short_value_has_no_program(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap(value_size=4)
        cpumap.update(0, 64, ask.program())
        cpumap.update(0, 65, Ref(CLOSED_FD, CLOSED))


@pytest.mark.proves("__cpu_map_load_bpf_program", "an entry holds its program")
@pytest.mark.proves("__cpu_map_entry_free", "an entry that goes releases its program")
@pytest.mark.proves("put_cpu_map_entry", "the last reference to go releases the program")
@pytest.mark.parametrize("end", ["delete", "qsize 0", "replace", "close"])
def test_an_entry_holds_its_program_while_it_lives(lab: Casework, end: str) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        prog = ask.program()
        assert prog.model
        prog_id = Program(ask.calls, prog.fd).id
        cpumap.update(0, 64, prog)
        ask.close(prog.fd)
        ask.settle()
        assert ask.program_lives(prog_id)
        if end == "delete":
            cpumap.delete(0)
        elif end == "close":
            ask.forget(cpumap)
        else:
            cpumap.update(0, 0 if end == "qsize 0" else 32)
        assert ask.wait_program_gone(prog_id)


@pytest.mark.proves("__cpu_map_load_bpf_program", "each entry holds its program by itself")
def test_each_entry_holds_its_program_by_itself(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap, prog = ask.cpumap(), ask.program()
        prog_id = Program(ask.calls, prog.fd).id
        for key in (0, 1):
            cpumap.update(key, 64, prog)
        ask.close(prog.fd)
        cpumap.delete(0)
        ask.settle()
        assert ask.program_lives(prog_id)
        cpumap.delete(1)
        assert ask.wait_program_gone(prog_id)


@pytest.mark.proves("__cpu_map_load_bpf_program", "a program that is refused is not held")
def test_a_refused_program_is_not_held(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        refused = ask.program(attach_type=ATTACH_XDP)
        prog_id = Program(ask.calls, refused.fd).id
        cpumap.update(0, 64, refused)
        ask.close(refused.fd)
        assert ask.wait_program_gone(prog_id)


@pytest.mark.proves("__cpu_map_load_bpf_program", "an entry holds its program")
@pytest.mark.proves("__cpu_map_entry_free", "an entry that goes releases its program")
@pytest.mark.proves("put_cpu_map_entry", "the last reference to go releases the program")
def test_a_replaced_program_is_released_and_the_new_one_held(lab: Casework) -> None:
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        old, new = ask.program(), ask.program()
        old_id, new_id = (Program(ask.calls, ref.fd).id for ref in (old, new))
        cpumap.update(0, 64, old)
        cpumap.update(0, 64, new)
        for ref in (old, new):
            ask.close(ref.fd)
        assert ask.wait_program_gone(old_id)
        assert ask.program_lives(new_id)
        cpumap.lookup(0)


@pytest.mark.proves(
    "__cpu_map_load_bpf_program",
    "the first program that a map sees decides whether all others take fragments",
    since=gates.FRAGS,
)
@pytest.mark.parametrize("value_size", [4, 8])
@pytest.mark.parametrize("first", [0, F_XDP_HAS_FRAGS])
def test_a_redirector_decides_on_fragments(lab: Casework, first: int, value_size: int) -> None:
    """The first program that touches the map decides for all that come, whatever else it does."""
    with Answers(lab) as ask:
        cpumap, other = ask.cpumap(value_size=value_size), F_XDP_HAS_FRAGS - first
        ask.close(ask.redirector(cpumap, flags=first).fd)
        ask.redirector(cpumap, flags=other)
        ask.redirector(cpumap, flags=first)
        for flags in (other, first):
            cpumap.update(0, 64, ask.program(flags=flags))


@pytest.mark.proves(
    "__cpu_map_load_bpf_program",
    "the first program that a map sees decides whether all others take fragments",
    since=gates.FRAGS,
)
@pytest.mark.parametrize("first", [0, F_XDP_HAS_FRAGS])
def test_an_entry_decides_on_fragments(lab: Casework, first: int) -> None:
    with Answers(lab) as ask:
        cpumap, other = ask.cpumap(), F_XDP_HAS_FRAGS - first
        cpumap.update(0, 64, ask.program(flags=other, attach_type=ATTACH_XDP))  # refused before
        cpumap.update(0, 64, ask.program(flags=first))
        cpumap.update(0, 65, ask.program(flags=other))
        cpumap.delete(0)
        cpumap.update(1, 66, ask.program(flags=other))
        ask.redirector(cpumap, flags=other)
        ask.redirector(cpumap, flags=first)


@pytest.mark.proves(
    "__cpu_map_load_bpf_program", "a program bound to a device is refused", since=gates.DEV_BOUND
)
@pytest.mark.proves(
    "cpu_map_redirect", "a program bound to a device may use it", since=gates.DEV_BOUND_REDIRECTOR
)
def test_a_program_bound_to_a_device(lab: Casework) -> None:
    """It may redirect into a cpumap, since 6.16 (6.12.35), and never be in one."""
    with Answers(lab) as ask:
        cpumap = ask.cpumap()
        bound = {"flags": F_XDP_DEV_BOUND_ONLY, "ifindex": lab.guest.ifindex["eth0"]}
        cpumap.update(0, 64, ask.program(**bound))
        cpumap.update(0, 65, ask.program())
        cpumap.update(0, 66, ask.program(**bound))
        ask.redirector(cpumap, **bound)
        ask.redirector(ask.cpumap(), **bound)


@pytest.mark.proves(
    "__cpu_map_load_bpf_program",
    "a program for entries can neither be attached to a device nor be test-run",
)
def test_an_entrys_program_runs_nowhere_else(lab: Casework) -> None:
    """Neither on a device nor in BPF_PROG_TEST_RUN."""
    with Answers(lab) as ask:
        prog = Program(ask.calls, ask.program(attach_type=ATTACH_XDP_CPUMAP).fd)
        ask.check("BPF_PROG_TEST_RUN", EINVAL, run_program(ask.calls, prog)[0].errno)
        for mode, flag in XDP_MODES.items():
            front = struct.pack("<IIII", prog.fd, lab.guest.ifindex["eth0"], ATTACH_XDP, flag)
            ask.check(f"attach in {mode} mode", EINVAL, bpf(ask.calls, LINK_CREATE, front).errno)


@pytest.mark.proves(
    "cpu_map_prog_allowed", "a map with room for programs keeps its redirectors from generic XDP"
)
@pytest.mark.proves(
    "cpu_map_generic_redirect",
    "a program that redirects into any cpumap may be attached in generic mode",
)
@pytest.mark.parametrize("value_size", [4, 8])
def test_where_a_redirector_may_be_attached(lab: Casework, value_size: int) -> None:
    """5.10 lets no generic program use a cpumap that has room for programs."""
    with Answers(lab) as ask:
        cpumap = ask.cpumap(value_size=value_size)
        redirector = ask.redirector(cpumap, attach_type=ATTACH_XDP)
        for mode, flag in XDP_MODES.items():
            front = struct.pack("<IIII", redirector.fd, lab.guest.ifindex["eth0"], ATTACH_XDP, flag)
            answer = bpf(ask.calls, LINK_CREATE, front)
            says = cpumap.model.map.dev_xdp_install(generic=mode == "generic")
            ask.check(f"attach in {mode} mode", says, answer.errno)
            if not answer.errno:
                ask.close(ask.own(answer.value))
