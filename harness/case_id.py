"""A case's name is its pytest id without the kernel: the same case on every kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def split_id(nodeid: str, specs: Iterable[str]) -> tuple[str, str | None]:
    """Return a case's name and the kernel spec in its pytest id; None if it runs on none.

    Args:
        nodeid: like `cases/test_generic.py::test_drops[debian:6.1-24]`.
        specs: those that may be in it.
    """
    function, _, rest = nodeid.partition("[")
    parameters = f"-{rest.removesuffix(']')}-"
    for spec in sorted(specs, key=len, reverse=True):  # debian:7.3-rt before debian:7.3
        # pytest escapes the parameters of its own cases; scenarios are named by the lab
        escaped = spec.encode("unicode_escape").decode("ascii")
        written = spec if f"-{spec}-" in parameters else escaped
        before, found, after = parameters.partition(f"-{written}-")
        if found:
            # a parameter may begin with a dash of its own: -1
            others = before.removeprefix("-"), after.removesuffix("-")
            left = "-".join(filter(None, others))
            return (f"{function}[{left}]" if left else function), spec
    return nodeid, None
