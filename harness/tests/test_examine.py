"""Kernels examined before they boot: their configuration, wherever it is, and what it lacks."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import harness.contract.table
import harness.kernels.check_cli
from harness.kernels import KernelImage
from harness.kernels.check_cli import check_command, findings
from harness.kernels.examine import (
    NEEDED,
    lacking,
    options_in,
    slowdown,
    unfit,
    why_too_many,
    why_without,
)
from harness.kernels.image import RunningKernel
from harness.kernels.kconfig import own_fragments
from harness.tests.fakes import PVH, make_bzimage, make_elf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FIT = "".join(f"CONFIG_{name}=y\n" for name in NEEDED)


def kernel(where: Path, boot: bytes, config: str | None = None) -> KernelImage:
    """A kernel that starts with these bytes, with a file of configuration beside it or without."""
    image = where / "image"
    image.write_bytes(boot)
    path = where / "config"
    if config is not None:
        path.write_text(config)
    found = path if config is not None else None
    return KernelImage("path:k", "7.3", "7.3", image, image, None, found, str(where))


def with_ikconfig(config: str) -> bytes:
    packed = b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED"
    return make_elf({".rodata": b"before" + packed + b"after"}, PVH)


@pytest.mark.parametrize(
    "make",
    [
        lambda where: kernel(where, make_bzimage(), "CONFIG_A=y\n# CONFIG_B is not set\n"),
        lambda where: kernel(where, with_ikconfig("CONFIG_A=y\n# CONFIG_B is not set\n")),
        lambda where: kernel(
            where, make_bzimage(with_ikconfig("CONFIG_A=y\n# CONFIG_B is not set\n"))
        ),
    ],
    ids=["file", "vmlinux", "bzImage"],
)
def test_where_a_configuration_is_found(
    tmp_path: Path, make: Callable[[Path], KernelImage]
) -> None:
    found = make(tmp_path)
    assert options_in(found) == {"A": "y", "B": "n"}
    assert lacking(found, ["A", "B", "C"]) == ["CONFIG_B", "CONFIG_C"]


@pytest.mark.parametrize(
    "boot",
    [
        make_bzimage(),
        make_elf({".rodata": b"IKCFG_ST"}, PVH),
        make_elf({".rodata": b"IKCFG_STnot packedIKCFG_ED"}, PVH),
    ],
    ids=["none", "cut off", "damaged"],
)
def test_of_a_kernel_that_does_not_tell_nothing_is_claimed(tmp_path: Path, boot: bytes) -> None:
    silent = kernel(tmp_path, boot)
    assert options_in(silent) is None
    assert (unfit(silent), lacking(silent, ["A"]), slowdown(silent)) == ([], [], 1.0)
    assert "nothing tells its configuration" in findings(silent, [("A",)])[0]


def test_a_machine_that_does_not_tell_is_not_tried(tmp_path: Path) -> None:
    there = RunningKernel("ssh://there", "7.3-mine", "Linux version 7.3 #1", None)
    assert why_without(there, []) is None
    assert why_without(there, ["NUMA", "SMP"]) == (
        "it takes CONFIG_NUMA, CONFIG_SMP; no /boot/config-7.3-mine there tells of that"
    )
    config = tmp_path / "config"
    config.write_text("CONFIG_SMP=y\n")
    told = replace(there, config=config)
    assert why_without(told, ["SMP"]) is None
    assert why_without(told, ["NUMA", "SMP"]) == "no CONFIG_NUMA in 7.3-mine"
    assert why_without(kernel(tmp_path, make_bzimage()), ["NUMA"]) is None


def test_a_kernel_takes_so_many_cpus(tmp_path: Path) -> None:
    small = kernel(tmp_path, with_ikconfig("CONFIG_NR_CPUS=8\n"))
    assert why_too_many(small, 8) is None
    assert why_too_many(small, 9) == f"{small.release} takes 8 CPUs, not 9 (CONFIG_NR_CPUS)"
    silent = tmp_path / "silent"
    silent.mkdir()
    assert why_too_many(kernel(silent, make_bzimage()), 4096) is None


def test_what_no_guest_does_without(tmp_path: Path) -> None:
    config = FIT.replace("CONFIG_INET=y\n", "").replace("VIRTIO_NET=y", "VIRTIO_NET=m")
    assert unfit(kernel(tmp_path, b"", config)) == [
        "the module of CONFIG_VIRTIO_NET=m (the NICs)",
        "CONFIG_INET (the stack that frames are delivered to)",
    ]


def test_our_own_fragment_has_all_that_a_guest_needs() -> None:
    asked = own_fragments()[0].options
    by_others = {"EVENT_TRACING"}  # which CONFIG_FUNCTION_TRACER selects
    assert {name for name in NEEDED if asked.get(name) != "y"} == by_others


def test_debug_kernels_are_given_time(tmp_path: Path) -> None:
    slow = kernel(
        tmp_path, b"", "CONFIG_KASAN=y\nCONFIG_PROVE_LOCKING=y\n# CONFIG_KCSAN is not set"
    )
    assert slowdown(slow) == 8.0


def test_skipped_cases_are_counted(tmp_path: Path) -> None:
    wanted = [("NUMA",), ("NUMA",), ("SMP",), ("KASAN", "NUMA"), ()]
    assert findings(kernel(tmp_path, b"", FIT), wanted) == [
        "no CONFIG_NUMA: 2 cases will be skipped",
        "no CONFIG_KASAN: 1 case will be skipped",
    ]
    other = tmp_path / "other"
    other.mkdir()
    assert findings(kernel(other, b"", FIT), [("SMP",)]) == ["has all that the cases want"]


@pytest.mark.parametrize(("config", "status"), [(FIT, 0), ("CONFIG_SMP=y\n", 1)])
def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, status: int
) -> None:
    found = kernel(tmp_path, b"", config)
    monkeypatch.setattr(harness.kernels.check_cli, "resolve", lambda *_, **__: found)
    monkeypatch.setattr(harness.contract.table, "collect_cases", list)
    done = CliRunner().invoke(check_command, ["path:k"])
    assert done.exit_code == status
    assert ("no guest comes up without CONFIG_VIRTIO_NET" in done.output) == bool(status)
