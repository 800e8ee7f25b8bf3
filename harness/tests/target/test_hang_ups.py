from __future__ import annotations

import pytest

from harness.errors import HungUp, TargetFailed
from harness.target.lab import HANG_UPS, patiently


class Target:
    """Hangs up some times, and then answers."""

    def __init__(self, hang_ups: int) -> None:
        self.left = hang_ups

    def log_in(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise HungUp("ssh://guest does not run commands")
        return "in"


def test_some_hang_ups_are_put_up_with_and_told() -> None:
    said: list[str] = []
    assert patiently(Target(HANG_UPS).log_in, said.append) == "in"
    assert said == ["ssh://guest does not run commands; once more"] * HANG_UPS


def test_a_target_that_always_hangs_up_is_given_up() -> None:
    with pytest.raises(HungUp):
        patiently(Target(HANG_UPS + 1).log_in)


def test_other_failures_are_no_hang_ups() -> None:
    def fail() -> None:
        tried.append(1)
        raise TargetFailed("no route to host")

    tried: list[int] = []
    with pytest.raises(TargetFailed):
        patiently(fail)
    assert tried == [1]
