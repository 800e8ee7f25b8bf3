"""What pytest is asked for: kernels, guests, and what cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.kernels import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_runs import Session


EMPTY = "def test_nothing(lab): print(lab.kernel)\n"


def test_two_kernels_run_every_case_twice(run_pytest: Callable[..., Session]) -> None:
    kernels = {spec: resolve(spec) for spec in ("debian:6.1", "debian:7.3")}
    session = run_pytest(EMPTY, *(option for spec in kernels for option in ("--kernel", spec)))
    assert session.status == 0
    assert set(session.outcomes) == {f"test_nothing[{spec}]" for spec in kernels}
    for spec, kernel in kernels.items():
        assert f"kernel: {spec} = {kernel.release}\n" in session.output


def test_a_case_says_what_guest_it_needs(a_kernel: str, run_pytest: Callable[..., Session]) -> None:
    cases = """
import pytest

@pytest.mark.machine(cpus=2, nics=2, append="quiet")
def test_marked(lab):
    assert list(lab.cpus) == [0, 1]
    assert set(lab.guest.ifindex) == {"lo", "eth0", "eth1"}
    assert lab.guest.read("/proc/cmdline").endswith("quiet sysrq_always_enabled\\n")

def test_unmarked(lab):
    assert list(lab.cpus) == [0, 1, 2]
"""
    options = ("--kernel", a_kernel, "--cpus", "3", "--append", "sysrq_always_enabled")
    session = run_pytest(cases, *options)
    assert session.status == 0, session.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--kernel", "nonsense:1"], "`nonsense:1` is no kernel spec"),
        (["--kernel", "path:/nonexistent"], "cannot read /nonexistent"),
        (["--cpus", "99"], "99 CPUs: a guest has 1 to 64"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once(
    run_pytest: Callable[..., Session], options: list[str], told: str
) -> None:
    session = run_pytest(EMPTY, *options)
    assert session.status == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {told}" in session.output
    assert "Traceback" not in session.output
    assert "INTERNALERROR" not in session.output


def test_a_cache_that_cannot_be_made_is_refused_at_once(
    run_pytest: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", "/proc/version/cache")
    session = run_pytest(EMPTY)
    assert session.status == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: cannot make the cache directory" in session.output
    assert "INTERNALERROR" not in session.output
