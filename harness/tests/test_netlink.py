from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from harness.agent.netlink import attribute, set_link, set_xdp
from harness.agent.syscalls import Syscalls
from harness.errors import GuestError
from harness.tests.agents import Agent

if TYPE_CHECKING:
    from collections.abc import Iterator

EPERM = 1


@pytest.fixture
def calls() -> Iterator[Syscalls]:
    with Agent() as agent:
        yield Syscalls(agent.link())


@pytest.mark.parametrize(
    ("payload", "packed"),
    [
        (b"", b"\4\0\7\0"),
        (b"abc", b"\7\0\7\0abc\0"),
        (b"abcd", b"\10\0\7\0abcd"),
    ],
)
def test_an_attribute_is_padded_to_four_bytes(payload: bytes, packed: bytes) -> None:
    assert attribute(7, payload) == packed


def test_the_kernels_answer_comes_back(calls: Syscalls) -> None:
    """Of this machine's own kernel, which gives strangers nothing."""
    refused = {0} if os.geteuid() == 0 else {EPERM}
    loopback = socket.if_nametoindex("lo")
    assert set_link(calls, loopback, b"").errno in refused
    with pytest.raises(GuestError):
        set_xdp(calls, 1 << 30, None, "generic")
