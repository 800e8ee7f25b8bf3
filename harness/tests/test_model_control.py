from __future__ import annotations

import errno

import pytest

from harness.model.control import (
    BPF_XDP,
    BPF_XDP_CPUMAP,
    CpuMap,
    CpumapVal,
    MapAttr,
    NotProg,
    Prog,
    cpu_map_alloc,
)
from harness.model.facts import ENOTSUPP, Facts, errno_name, parse_list
from harness.model.syscall import (
    BPF_F_RDONLY,
    BPF_F_WRONLY,
    MapFile,
    Task,
    array_of_maps_update,
    map_create,
    map_use,
)

V510, V61, V612, V618, V72, V73 = (
    (5, 10, 262),
    (6, 1, 192),
    (6, 12, 117),
    (6, 18, 15),
    (7, 2, 13),
    (7, 3, 4),
)
ALL = (V510, V61, V612, V618, V72, V73)
BEFORE_7, SINCE_7 = ALL[:4], ALL[4:]
NOEXIST, EXIST, LOCK = 1, 2, 4
NUMA = 4
DEVMAP = 33


def a_map(kernel: tuple[int, ...] = V73, **attr: int) -> CpuMap:
    answer, made = cpu_map_alloc(Facts(kernel), MapAttr(**attr))  # type: ignore[arg-type]
    assert answer == 0
    assert made
    return made


def a_file(kernel: tuple[int, ...] = V73, **attr: int) -> MapFile:
    return MapFile(a_map(kernel, **attr))


@pytest.mark.parametrize("kernel", ALL)
@pytest.mark.parametrize(
    ("attr", "says"),
    [
        ({}, 0),
        ({"value_size": 4}, 0),
        ({"key_size": 0}, errno.EINVAL),
        ({"key_size": 8}, errno.EINVAL),
        ({"value_size": 0}, errno.EINVAL),
        ({"value_size": 6}, errno.EINVAL),
        ({"value_size": 12}, errno.EINVAL),
        ({"value_size": 16}, errno.EINVAL),
        ({"max_entries": 0}, errno.EINVAL),
        ({"max_entries": 1}, 0),
        ({"max_entries": 8192}, 0),
        ({"max_entries": 8193}, errno.E2BIG),
        ({"max_entries": 0xFFFFFFFF}, errno.E2BIG),
        ({"max_entries": 8193, "value_size": 5}, errno.EINVAL),
        ({"map_flags": 1}, errno.EINVAL),
        ({"map_flags": 1 << 3}, errno.EINVAL),
        ({"map_flags": 1 << 4}, errno.EINVAL),
        ({"map_flags": 1 << 3 | 1 << 4}, errno.EINVAL),
        ({"map_flags": 1 << 7}, errno.EINVAL),
        ({"map_flags": 1 << 10}, errno.EINVAL),
        ({"map_flags": 1 << 12}, errno.EINVAL),
        ({"map_flags": NUMA}, 0),
        ({"map_flags": NUMA, "numa_node": 1}, errno.EINVAL),
        ({"map_flags": NUMA, "numa_node": 99999}, errno.EINVAL),
        ({"map_flags": NUMA, "numa_node": (1 << 32) - 1}, 0),
        ({"numa_node": 99999}, 0),
        ({"map_extra": 1}, errno.EINVAL),
        ({"map_ifindex": 2}, errno.EINVAL),
        ({"btf": True}, ENOTSUPP),
    ],
)
def test_create(kernel: tuple[int, ...], attr: dict[str, int], says: int) -> None:
    answer, made = map_create(Facts(kernel), MapAttr(**attr))  # type: ignore[arg-type]
    assert answer == says
    assert (made is None) == bool(says)


@pytest.mark.parametrize("kernel", ALL)
def test_create_needs_cap_bpf(kernel: tuple[int, ...]) -> None:
    for disabled in (False, True):
        facts = Facts(kernel, unprivileged_bpf_disabled=disabled)
        assert map_create(facts, MapAttr(), Task(cap_bpf=False))[0] == errno.EPERM
        assert map_create(facts, MapAttr(value_size=5), Task(cap_bpf=False))[0] == errno.EPERM
    malformed = map_create(Facts(kernel), MapAttr(map_extra=1), Task(cap_bpf=False))[0]
    assert malformed == (errno.EPERM if kernel < (6, 4) else errno.EINVAL)


@pytest.mark.parametrize(("entries", "limit", "says"), [(512, 4096, 0), (513, 4096, errno.EPERM)])
def test_only_5_10_charges_the_task(entries: int, limit: int, says: int) -> None:
    attr = MapAttr(max_entries=entries)
    assert cpu_map_alloc(Facts(V510), attr, memlock=limit)[0] == says
    assert cpu_map_alloc(Facts(V61), attr, memlock=limit)[0] == 0


@pytest.mark.parametrize(("kernel", "says"), [(V510, errno.EPERM), (V61, 0), (V73, 0)])
def test_a_descriptor_suffices_since_5_19(kernel: tuple[int, ...], says: int) -> None:
    assert map_use(Facts(kernel), Task(cap_bpf=False)) == says
    assert map_use(Facts(kernel), Task()) == 0
    assert map_use(Facts(kernel, unprivileged_bpf_disabled=False), Task(cap_bpf=False)) == 0


@pytest.mark.parametrize("kernel", ALL)
@pytest.mark.parametrize(
    ("key", "qsize", "flags", "says"),
    [
        (0, 192, 0, 0),
        (0, 192, EXIST, 0),  # of an empty slot
        (0, 1, 0, 0),
        (0, 16384, 0, 0),
        (0, 16385, 0, errno.EOVERFLOW),
        (0, 0xFFFFFFFF, 0, errno.EOVERFLOW),
        (0, 192, NOEXIST, errno.EEXIST),  # of an empty slot
        (0, 192, 3, errno.EINVAL),
        (0, 192, LOCK, errno.EINVAL),
        (0, 192, 8, errno.EINVAL),
        (0, 192, 16, errno.EINVAL),
        (0, 192, 1 << 32, errno.EINVAL),
        (64, 192, 0, errno.E2BIG),
        (63, 192, 0, errno.ENODEV),
        (4, 192, 0, errno.ENODEV),
        (3, 192, 0, 0),
        (64, 192, NOEXIST, errno.E2BIG),
        (64, 192, 3, errno.EINVAL),
        (0, 16385, NOEXIST, errno.EEXIST),
        (63, 16385, 0, errno.EOVERFLOW),
        (63, 0, 0, errno.ENODEV),
        (64, 0, 0, errno.E2BIG),
        (0, 0, NOEXIST, errno.EEXIST),
        (0, 0, 0, 0),
    ],
)
def test_update(kernel: tuple[int, ...], key: int, qsize: int, flags: int, says: int) -> None:
    file = a_file(kernel, max_entries=64)
    assert file.map_update_elem(key, CpumapVal(qsize), flags) == says
    assert file.map.cpu_map_lookup_elem(key) == ((qsize, 0) if not says and qsize else None)


def test_an_offline_cpu_may_have_an_entry() -> None:
    facts = Facts(V73, online=frozenset({0}))
    assert CpuMap(facts, MapAttr()).cpu_map_update_elem(3, CpumapVal(8)) == 0


def test_bad_pointers_come_after_the_commands_own_flags() -> None:
    for kernel in ALL:
        file = a_file(kernel)
        assert file.map_update_elem(None, CpumapVal(8)) == errno.EFAULT
        assert file.map_update_elem(0, None, 3) == errno.EFAULT
        assert file.map_update_elem(None, CpumapVal(8), LOCK) == errno.EINVAL
        assert file.map_delete_elem(None) == errno.EFAULT
        assert file.map_lookup_elem(None) == (errno.EFAULT, None)


GOOD, FRAGS = Prog(7), Prog(8, frags=True)
BAD = [
    (NotProg(open=False), errno.EBADF),
    (NotProg(open=True), errno.EINVAL),
    (Prog(1, type=1, expected_attach_type=0), errno.EINVAL),
    (Prog(2, expected_attach_type=BPF_XDP), errno.EINVAL),
    (Prog(3, expected_attach_type=DEVMAP), errno.EINVAL),
    (Prog(4, dev_bound=True), errno.EINVAL),
]


@pytest.mark.parametrize("kernel", ALL)
@pytest.mark.parametrize(("prog", "says"), BAD)
def test_bad_programs(kernel: tuple[int, ...], prog: Prog | NotProg, says: int) -> None:
    cpumap = a_map(kernel)
    assert cpumap.cpu_map_update_elem(0, CpumapVal(8, GOOD)) == 0
    answer = cpumap.cpu_map_update_elem(0, CpumapVal(9, prog))
    assert answer == (errno.ENOMEM if kernel in BEFORE_7 else says)
    assert cpumap.cpu_map_lookup_elem(0) == (8, GOOD.id)
    assert cpumap.cpu_map_update_elem(0, CpumapVal(0, prog)) == 0
    assert cpumap.cpu_map_lookup_elem(0) is None


def test_a_short_value_has_no_program() -> None:
    cpumap = a_map(value_size=4)
    assert cpumap.cpu_map_update_elem(0, CpumapVal(8, NotProg(open=False))) == 0
    assert cpumap.cpu_map_lookup_elem(0) == (8, 0)


@pytest.mark.parametrize(("first", "second"), [(GOOD, FRAGS), (FRAGS, GOOD)])
def test_the_first_program_decides_for_ever(first: Prog, second: Prog) -> None:
    for kernel in ALL[1:]:
        cpumap = a_map(kernel)
        assert cpumap.cpu_map_update_elem(0, CpumapVal(8, first)) == 0
        assert cpumap.cpu_map_delete_elem(0) == 0
        refused = errno.EINVAL if kernel in SINCE_7 else errno.ENOMEM
        assert cpumap.cpu_map_update_elem(0, CpumapVal(8, second)) == refused
        assert cpumap.bpf_prog_load_uses(second) == errno.EINVAL
        assert cpumap.bpf_prog_load_uses(first) == 0


def test_a_redirector_decides_too() -> None:
    cpumap = a_map(V61, value_size=4)
    assert cpumap.bpf_prog_load_uses(Prog(1, expected_attach_type=0)) == 0
    assert cpumap.bpf_prog_load_uses(Prog(2, expected_attach_type=0, frags=True)) == errno.EINVAL


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        ((6, 12, 34), errno.EINVAL),
        ((6, 12, 35), 0),
        ((6, 13, 99), errno.EINVAL),
        ((6, 16, 0), 0),
    ],
)
def test_device_bound_redirectors(kernel: tuple[int, ...], says: int) -> None:
    assert a_map(kernel).bpf_prog_load_uses(Prog(1, dev_bound=True)) == says


def test_a_program_of_the_wrong_kind_does_not_become_the_owner() -> None:
    cpumap = a_map()
    wrong = Prog(1, expected_attach_type=BPF_XDP, frags=True)
    assert cpumap.cpu_map_update_elem(0, CpumapVal(8, wrong)) == errno.EINVAL
    assert cpumap.cpu_map_update_elem(0, CpumapVal(8, GOOD)) == 0
    assert GOOD.expected_attach_type == BPF_XDP_CPUMAP


def test_delete() -> None:
    cpumap = a_map(max_entries=64)
    assert cpumap.cpu_map_update_elem(1, CpumapVal(8)) == 0
    for key, says in [(1, 0), (1, 0), (2, 0), (63, 0), (64, errno.EINVAL)]:
        assert cpumap.cpu_map_delete_elem(key) == says
    assert cpumap.entries == {}


def test_lookup() -> None:
    file = a_file(max_entries=64)
    assert file.map_update_elem(1, CpumapVal(8, GOOD)) == 0
    assert file.map_lookup_elem(1) == (0, (8, GOOD.id))
    assert file.map_lookup_elem(2) == (errno.ENOENT, None)
    assert file.map_lookup_elem(64) == (errno.ENOENT, None)
    for flags in (1, 4, 8):
        assert file.map_lookup_elem(1, flags) == (errno.EINVAL, None)


@pytest.mark.parametrize(
    ("key", "says"),
    [(None, (0, 0)), (0, (0, 1)), (62, (0, 63)), (63, (errno.ENOENT, 0)), (64, (0, 0))],
)
def test_next_key(key: int | None, says: tuple[int, int]) -> None:
    assert a_map(max_entries=64).cpu_map_get_next_key(key) == says


@pytest.mark.parametrize(
    ("key", "flags", "act"),
    [
        (1, 0, 4),
        (1, 2, 4),
        (1, 4, 0),
        (1, 8, 0),
        ((1 << 32) + 1, 0, 4),
        (2, 0, 0),
        (2, 1, 1),
        (2, 2, 2),
        (2, 3, 3),
        (2, 4, 0),
        (64, 2, 2),
        (0xFFFFFFFF, 2, 2),
    ],
)
def test_redirect(key: int, flags: int, act: int) -> None:
    cpumap = a_map(max_entries=64)
    assert cpumap.cpu_map_update_elem(1, CpumapVal(8)) == 0
    assert cpumap.cpu_map_redirect(key, flags) == act


@pytest.mark.parametrize(
    ("kernel", "entries", "value_size", "says"),
    [
        (V510, 4, 8, 4096),
        (V510, 513, 4, 8192),
        (V510, 513, 8, 8192),
        (V510, 8192, 4, 65536),
        (V510, 8192, 8, 65536),
        (V61, 4, 8, 4096),
        (V61, 513, 4, 8192),
        (V61, 513, 8, 12288),
        (V61, 8192, 4, 65536),
        (V61, 8192, 8, 131072),
        (V73, 4, 8, 320),
        (V73, 513, 4, 4392),
        (V73, 8192, 8, 65824),
    ],
)
def test_memory(kernel: tuple[int, ...], entries: int, value_size: int, says: int) -> None:
    assert a_map(kernel, max_entries=entries, value_size=value_size).cpu_map_mem_usage() == says


@pytest.mark.parametrize(
    ("flags", "update", "lookup", "delete", "next_key"),
    [
        (0, 0, 0, 0, 0),
        (BPF_F_RDONLY, errno.EPERM, errno.ENOENT, errno.EPERM, 0),
        (BPF_F_WRONLY, 0, errno.EPERM, 0, errno.EPERM),
    ],
)
def test_rights(flags: int, update: int, lookup: int, delete: int, next_key: int) -> None:
    file = MapFile(a_map(), flags)
    assert file.map_update_elem(0, CpumapVal(8)) == update
    assert file.map_lookup_elem(0)[0] == lookup
    assert file.map_delete_elem(0) == delete
    assert file.map_get_next_key(None)[0] == next_key


@pytest.mark.parametrize("kernel", ALL)
def test_flags_of_a_lookup_and_the_right_to_read(kernel: tuple[int, ...]) -> None:
    writer = MapFile(a_map(kernel), BPF_F_WRONLY)
    assert writer.map_lookup_elem(0, 1)[0] == (errno.EINVAL if kernel in BEFORE_7 else errno.EPERM)
    assert writer.map_lookup_elem(0, LOCK)[0] == errno.EPERM


def test_there_are_no_batches() -> None:
    assert a_file().bpf_map_do_batch(reads=True, writes=True) == ENOTSUPP
    reader = MapFile(a_map(), BPF_F_RDONLY)
    assert reader.bpf_map_do_batch(reads=True, writes=True) == errno.EPERM
    assert reader.bpf_map_do_batch(reads=True, writes=False) == ENOTSUPP
    assert reader.bpf_map_mmap() == ENOTSUPP
    assert MapFile(a_map(), BPF_F_WRONLY).bpf_map_mmap() == errno.EACCES


@pytest.mark.parametrize("kernel", ALL)
def test_freeze(kernel: tuple[int, ...]) -> None:
    file = a_file(kernel)
    assert file.map_update_elem(0, CpumapVal(8)) == 0
    reader = MapFile(file.map, BPF_F_RDONLY)
    assert file.map_freeze() == 0
    assert file.map_freeze() == (errno.EBUSY if kernel in {V510, V61} else errno.EPERM)
    assert file.map_update_elem(0, CpumapVal(9)) == errno.EPERM
    assert file.map_delete_elem(0) == errno.EPERM
    assert file.map_lookup_elem(0) == (0, (8, 0))
    assert reader.map_lookup_elem(0) == (0, (8, 0))
    assert file.map.cpu_map_redirect(0) == 4


def test_inner_maps_may_differ_in_max_entries_only() -> None:
    assert array_of_maps_update(MapAttr(max_entries=4), MapAttr(max_entries=8)) == 0
    assert array_of_maps_update(MapAttr(value_size=4), MapAttr()) == errno.EINVAL
    assert array_of_maps_update(MapAttr(), MapAttr(map_flags=NUMA)) == errno.EINVAL


def test_generic_xdp_on_5_10_has_no_programs_in_entries() -> None:
    assert a_map(V510).dev_xdp_install(generic=True) == errno.EINVAL
    assert a_map(V510, value_size=4).dev_xdp_install(generic=True) == 0
    assert a_map(V510).dev_xdp_install(generic=False) == 0
    assert a_map(V61).dev_xdp_install(generic=True) == 0


def test_kthreads_bear_the_names_of_their_entries() -> None:
    for kernel, name in [(V510, "cpumap/3/map:12"), (V61, "cpumap/3/map:123")]:
        cpumap = CpuMap(Facts(kernel), MapAttr(), map_id=123)
        cpumap.cpu_map_update_elem(3, CpumapVal(8))
        assert cpumap.kthreads == [name]


def test_lists_and_names() -> None:
    assert parse_list("0-2,8\n") == {0, 1, 2, 8}
    assert parse_list("\n") == frozenset()
    assert [errno_name(number) for number in (0, 7, 524, 999)] == [
        "0",
        "E2BIG",
        "ENOTSUPP",
        "errno 999",
    ]
