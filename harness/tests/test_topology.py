from __future__ import annotations

import dataclasses

import pytest

from harness.errors import UserError
from harness.machine.topology import MAX_CPUS, MIN_MEMORY_MIB, Accel, Topology


def test_the_usual_guest() -> None:
    usual = Topology()
    assert (usual.cpus, usual.memory_mib, usual.nics, usual.append) == (4, 512, 1, "")


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [("cpus", 1, MAX_CPUS), ("memory_mib", MIN_MEMORY_MIB, 1 << 20), ("nics", 0, 8)],
)
def test_the_bounds_are_within(field: str, least: int, most: int) -> None:
    for value in (least, most):
        assert getattr(Topology(**{field: value}), field) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"cpus": 0}, "0 CPUs: a guest has 1 to 64"),
        ({"cpus": MAX_CPUS + 1}, "65 CPUs: a guest has 1 to 64"),
        ({"cpus": -1}, "-1 CPUs"),
        ({"memory_mib": MIN_MEMORY_MIB - 1}, "127 MiB: a guest needs 128 MiB or more"),
        ({"nics": -1}, "-1 NICs: a guest has 0 to 8"),
        ({"nics": 9}, "9 NICs: a guest has 0 to 8"),
        ({"spare_cpus": 61}, "65 CPUs: a guest has 1 to 64"),
        ({"spare_cpus": -1}, "3 CPUs"),
        ({"nodes": 2, "spare_cpus": 2}, "spare CPUs are of no NUMA node"),
        ({"nodes": 0}, "0 NUMA nodes cannot share 4 CPUs and 512 MiB"),
        ({"nodes": 3}, "3 NUMA nodes cannot share 4 CPUs"),
        ({"nodes": 2, "memory_mib": 511}, "2 NUMA nodes cannot share 4 CPUs and 511 MiB"),
    ],
)
def test_what_cannot_be(asked: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        Topology(**asked)  # type: ignore[arg-type]
    assert caught.value.exit_status == 2


def test_each_nic_has_an_address_of_its_own() -> None:
    devices = Topology(nics=8).devices
    assert len({nic.mac for nic in devices}) == 8
    assert all(int(nic.mac[:2], 16) & 0b11 == 0b10 for nic in devices)  # unicast, local
    assert Topology(nics=2).devices == devices[:2]


@pytest.mark.parametrize(
    ("accel", "at_work", "booting"),
    [
        (Accel("tcg", "multi", "why"), "tcg,thread=multi", "tcg,thread=single"),
        (Accel("tcg", "single", "why"), "tcg,thread=single", "tcg,thread=single"),
        (Accel("kvm", "", "why", "host"), "kvm", "kvm"),
    ],
)
def test_the_accelerators_argument(accel: Accel, at_work: str, booting: str) -> None:
    plain, pluggable = Topology(), Topology(nics=2, pluggable=True)
    assert accel.argument_for(plain, boots=False) == at_work
    assert accel.argument_for(plain, boots=True) == booting
    assert accel.argument_for(pluggable, boots=False) == booting
    cpus_too = Topology(nics=2, pluggable=True, spare_cpus=1)
    assert accel.argument_for(cpus_too, boots=False) == at_work
    assert accel.threads_for(plain, boots=False) == accel.threads


def test_the_pace_is_no_part_of_what_an_accelerator_is() -> None:
    accel = Accel("tcg", "multi", "why")
    assert accel == dataclasses.replace(accel, pace=7.0)
