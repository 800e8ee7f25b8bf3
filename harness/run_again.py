"""A second run for a case that the emulator spoiled, and what is said of it."""

from __future__ import annotations

import pytest
from _pytest.runner import runtestprotocol  # for plugins that run an item again

WHY = pytest.StashKey[str]()
"""Of a case whose first run was spoiled: why it is run once more."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a case once more that the emulator spoiled: what comes then is its verdict."""
    if "lab" not in getattr(item, "fixturenames", ()):
        return None
    of = {"nodeid": item.nodeid, "location": item.location}
    item.ihook.pytest_runtest_logstart(**of)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if WHY in item.stash:
        item.user_properties[:] = [("again", item.stash[WHY])]
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(**of)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which cases and scenarios were run once more, and why."""
    reports = [report for some in terminalreporter.stats.values() for report in some]
    told = {
        report.nodeid: dict(report.user_properties)["again"]
        for report in reports
        if "again" in dict(getattr(report, "user_properties", ()))
    }
    if told:
        terminalreporter.section("run again")
        for nodeid, why in told.items():
            terminalreporter.line(f"{nodeid}: {why}")
