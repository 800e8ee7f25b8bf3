from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import (
    AgentLost,
    BootFailed,
    CacheError,
    FetchFailed,
    GuestError,
    KernelNotFound,
    LabError,
    QemuFailed,
    ScenarioError,
    ToolMissing,
    TraceError,
    TrafficError,
    UserError,
)
from harness.judge import EMULATORS_FAULT, Judgement, judge, judge_error, tell_emulator, why_again
from harness.machine.splats import Splat
from harness.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

WARN = Splat("warn", "WARNING: CPU: 1 PID: 2 at kernel/bpf/cpumap.c:129", "…")
PANIC = Splat("panic", "Kernel panic - not syncing: Fatal exception", "…")


def books(verdict: Verdict = Verdict.PASS, *reasons: str, lost: int = 0) -> Any:
    """What a judge looks at in a run's books."""
    return SimpleNamespace(verdict=verdict, reasons=reasons, lost_events=lost)


GOOD = books()
UNBALANCED = books(Verdict.FAIL, "3 frames are missing")
LOSSY = books(Verdict.INVALID, "lost", lost=5)
UNPROVEN = books(Verdict.INVALID, "nothing was traced")


@pytest.mark.parametrize(
    ("closed", "splats", "failures", "verdict"),
    [
        ([], [], [], Verdict.PASS),
        ([GOOD], [], [], Verdict.PASS),
        ([GOOD, GOOD], [], [], Verdict.PASS),
        ([GOOD], [], ["kthreads that outlive their map"], Verdict.FAIL),
        ([], [], ["kthreads that outlive their map"], Verdict.FAIL),
        ([UNBALANCED], [], [], Verdict.FAIL),
        ([GOOD, UNBALANCED], [], [], Verdict.FAIL),
        ([LOSSY], [], [], Verdict.INVALID),
        ([GOOD, LOSSY], [], ["a failure proves nothing then"], Verdict.INVALID),
        ([UNBALANCED, LOSSY], [], [], Verdict.INVALID),
        ([UNPROVEN], [], [], Verdict.INVALID),
        ([UNBALANCED, UNPROVEN], [], ["x"], Verdict.INVALID),
        ([], [WARN], [], Verdict.CRASH),
        ([GOOD], [WARN], [], Verdict.CRASH),
        ([LOSSY], [WARN], [], Verdict.CRASH),
        ([UNBALANCED], [WARN, PANIC], ["x"], Verdict.CRASH),
    ],
)
def test_the_verdict(
    closed: list[Any], splats: list[Splat], failures: list[str], verdict: Verdict
) -> None:
    judgement = judge(closed, splats, failures)
    assert judgement.verdict is verdict
    assert bool(judgement.reasons) == (verdict is not Verdict.PASS)


def test_a_crash_names_each_splat() -> None:
    assert judge([GOOD], [WARN, PANIC]).reasons[:2] == (
        "warn: WARNING: CPU: 1 PID: 2 at kernel/bpf/cpumap.c:129",
        "panic: Kernel panic - not syncing: Fatal exception",
    )


def test_lost_events_are_counted() -> None:
    (reason, *_) = judge([LOSSY, LOSSY], [], ["x"]).reasons
    assert reason.startswith("10 trace events were lost")


def test_a_failure_tells_all_reasons() -> None:
    told = judge([UNBALANCED], [], ["kthreads that outlive their map"]).reasons
    assert set(told) == {"3 frames are missing", "kthreads that outlive their map"}


@pytest.mark.parametrize(
    "error",
    [
        LabError("x"),
        AgentLost("x"),
        QemuFailed("x"),
        GuestError("x", errno=12),
        TrafficError("x"),
        TraceError("x"),
        ToolMissing("x"),
        CacheError("x"),
        FetchFailed("x"),
        BootFailed("x", phase="kernel", console=""),
    ],
)
@pytest.mark.parametrize(
    ("splats", "verdict"), [([], Verdict.INVALID), ([WARN, PANIC], Verdict.CRASH)]
)
def test_an_error_is_invalid_unless_the_kernel_is_broken(
    error: LabError, splats: Sequence[Splat], verdict: Verdict
) -> None:
    judgement = judge_error(error, splats)
    assert judgement.verdict is verdict
    assert judgement.reasons[-1] == "x"
    assert judgement.reasons[:-1] == tuple(f"{splat.kind}: {splat.title}" for splat in splats)


def test_a_kernel_that_dies_while_it_boots_has_crashed() -> None:
    error = BootFailed("x", phase="kernel", console="", crashed=True)
    assert judge_error(error, []).verdict is Verdict.CRASH


@pytest.mark.parametrize("error", [UserError("x"), KernelNotFound("x"), ScenarioError("x")])
def test_a_wrong_request_is_no_verdict(error: LabError) -> None:
    with pytest.raises(UserError):
        judge_error(error, [WARN])


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (Verdict.PASS, 0),
        (Verdict.FAIL, 1),
        (Verdict.CRASH, 1),
        (Verdict.INVALID, 125),
        (Verdict.SKIP, 125),
    ],
)
def test_the_exit_status_is_git_bisects(verdict: Verdict, status: int) -> None:
    assert verdict.exit_status == status


INT3 = "oops: Oops: int3: 0000 [#1] PREEMPT SMP, at bpf_dispatcher_xdp_func+0x6/0x10"


@pytest.mark.parametrize("title", [INT3, "oops: int3: 0000 [#1] SMP PTI, at sched_clock_cpu+0x5"])
def test_an_int3_that_tcg_runs_late_is_no_verdict_on_the_kernel(title: str) -> None:
    crash = Judgement(Verdict.CRASH, (title, "panic: Kernel panic - not syncing"))
    told = tell_emulator(crash, "multi")
    assert (told.verdict, told.reasons) == (Verdict.INVALID, (*crash.reasons, EMULATORS_FAULT))
    assert why_again(told.reasons) == f"{title}: {EMULATORS_FAULT}"
    for threads in ("single", ""):  # where nothing else explains it
        assert tell_emulator(crash, threads) == crash


def test_what_dies_so_again_dies_of_its_kernel() -> None:
    crash = Judgement(Verdict.CRASH, (INT3,))
    assert tell_emulator(crash, "multi", again=True) == crash
    assert why_again(crash.reasons) == ""


@pytest.mark.parametrize(
    "judgement",
    [
        Judgement(Verdict.CRASH, ("oops: Oops: general protection fault: 0000 [#1]", INT3)),
        Judgement(Verdict.CRASH, ("warn: WARNING: CPU: 1 PID: 2 at arch/x86/kernel/traps.c:1",)),
        Judgement(Verdict.FAIL, (INT3,)),
        Judgement(Verdict.PASS),
    ],
)
def test_nothing_else_is_laid_to_the_emulator(judgement: Judgement) -> None:
    assert tell_emulator(judgement, "multi") == judgement
