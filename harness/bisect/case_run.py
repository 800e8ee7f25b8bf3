"""A case on one kernel, in a process of its own: `python -m harness.bisect.case_run`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from harness.apart import answer_apart
from harness.case_id import split_id
from harness.casework import Casework
from harness.errors import BootFailed, KernelNotFound, LabError
from harness.kernels.spec import parse_spec
from harness.matrix.results import Collector

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


class Witness:
    """A pytest plugin that picks the case and takes down what its guest and its error say.

    Args:
        case: its pytest id, with or without a kernel in it.
        kernel: the kernel that it runs on now.
        signature: what to look for on the console; None for nothing.

    Attributes:
        errors: the class of the error that ended a case, by its name without the kernel.
        seen: the cases whose console has the signature.
    """

    def __init__(self, case: str, kernel: str, signature: str | None) -> None:
        self._names = set(names_of(case)) if "[" in case else set()
        self._kernel = kernel
        self._signature = re.compile(signature, re.MULTILINE) if signature else None
        self.errors: dict[str, str] = {}
        self.seen: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the case, whichever kernel its id names."""
        if self._names:
            items[:] = [
                each for each in items if self._name(each).partition("::")[2] in self._names
            ]

    def _name(self, item: pytest.Item) -> str:
        return split_id(item.nodeid, [self._kernel])[0]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Look for the signature while the guest is still there."""
        try:
            return (yield)
        finally:
            case = pyfuncitem.funcargs.get("lab")
            if self._signature and isinstance(case, Casework):
                self._look(pyfuncitem, hear(case))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note which error ended the case."""
        error = call.excinfo.value if call.excinfo else None
        if error is not None and not isinstance(error, LabError):
            error = error.__cause__
        if isinstance(error, LabError):
            self.errors[self._name(item)] = type(error).__name__
        if isinstance(error, BootFailed) and self._signature:
            self._look(item, error.console)
        return (yield)

    def _look(self, item: pytest.Item, text: str) -> None:
        if self._signature and self._signature.search(text):
            self.seen.add(self._name(item))


def hear(case: Casework) -> str:
    """Return all that the kernel of a case has said; one that may be dead has its console."""
    said = case.guest.machine.console.text()
    try:
        return case.guest.dmesg() + said
    except LabError:
        return said


def names_of(case: str) -> Iterator[str]:
    """Yield what a case of this pytest id may be called without its kernel.

    What an id has in brackets may begin, end or go on with a kernel's spec, which has dashes, too.
    """
    name = case.partition("::")[2]
    yield name
    function, _, rest = name.partition("[")
    words = rest.removesuffix("]").split("-")
    for first in range(len(words)):
        for last in range(len(words), first, -1):
            try:
                parse_spec("-".join(words[first:last]))
            except KernelNotFound:
                continue
            left = "-".join((*words[:first], *words[last:]))
            yield f"{function}[{left}]" if left else function


def run_case(asked: dict[str, Any]) -> dict[str, Any] | None:
    """Run a case and return its results, or what is wrong with the request.

    None if it was interrupted.
    """
    case, kernel = asked["case"], asked["kernel"]
    collector = Collector([kernel])
    options = ["-q", "-p", "no:cacheprovider", "--runxfail", "--kernel", kernel]
    options += ["--artifacts", asked["artifacts"], case.partition("[")[0]]
    witness = Witness(case, kernel, asked["signature"])
    status = pytest.main(options, plugins=[collector, witness])
    if collector.interrupted:
        return None
    fault = ""
    if collector.faults:
        fault = "\n".join(collector.faults)
    elif status in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        fault = f"pytest knows no case `{case}` (`pytest FILE --collect-only -q` lists them)"
    results = [
        {
            "verdict": result.verdict,
            "reason": result.reason,
            "duration_s": result.duration_s,
            "artifacts": result.artifacts,
            "error": witness.errors.get(result.case),
            "signature": result.case in witness.seen,
        }
        for result in collector.results()
    ]
    return {"fault": fault, "results": results}


if __name__ == "__main__":
    answer_apart(run_case)
