"""A real agent, run as an ordinary program, and a link to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import harness.agent.link
from harness.tests.agents import Agent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.agent.link import Link


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as agent:
        yield agent


@pytest.fixture
def link(agent: Agent) -> Iterator[Link]:
    link = agent.link()
    yield link
    link.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send again after little time."""
    monkeypatch.setattr(harness.agent.link, "RESEND_S", 0.05)
