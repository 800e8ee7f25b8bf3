"""Verdicts are few and mean one thing."""

from __future__ import annotations

import enum


class Verdict(enum.StrEnum):
    """How a run ended.

    `PASS`: the kernel kept the contract and the books balance.
    `FAIL`: the kernel broke the contract.
    `CRASH`: panic, oops, WARN, sanitizer report or lockup, even if all else passed.
    `INVALID`: the lab could not judge (lost events, no boot, a starved host, a missing tool).
    `SKIP`: this kernel has no such feature.
    `KNOWN`: it failed or crashed as configs/known-issues.yaml says that this kernel does.
    """

    PASS = "pass"
    FAIL = "fail"
    CRASH = "crash"
    INVALID = "invalid"
    SKIP = "skip"
    KNOWN = "known"

    @property
    def exit_status(self) -> int:
        """Exit status: pass and known 0, fail and crash 1, invalid and skip 125 (bisect's skip).

        What is known is no news: it is neither what a bisection looks for nor what CI waits for.
        """
        return {"pass": 0, "known": 0, "fail": 1, "crash": 1}.get(self.value, 125)
