"""A conftest for cases whose guest is asked for nothing, and of which nothing is kept."""

CONFTEST = """
from types import SimpleNamespace

import pytest

import harness.pytest_plugin
from harness.casework import Casework
from harness.judge import judge, judge_error
from harness.machine.splats import Splat

harness.pytest_plugin.keep_case = lambda case, name, *_: f"kept/{name}"


class Fake(Casework):
    def __init__(self, spec):
        console = SimpleNamespace(tail=lambda lines: "")
        machine = SimpleNamespace(console=console, argv=[], hang=None)
        self.guest = SimpleNamespace(machine=machine, refused=lambda _: "")
        version = spec.removeprefix("debian:").removesuffix("-rt")
        self.kernel = tuple(map(int, version.split(".")))
        self.crash = None

    def finish(self, *, failed=False):
        return judge([], [Splat("oops", self.crash, self.crash)] if self.crash else [])

    def explain(self, error):
        return judge_error(error, [])


@pytest.fixture
def lab(kernel_spec):
    return Fake(kernel_spec)
"""
