"""Which injector goes with a NIC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.machine.tap import Tap
from harness.traffic.socket import SocketInjector
from harness.traffic.tap import TapInjector

if TYPE_CHECKING:
    from harness.machine.nic import End
    from harness.traffic.wire import Injector


def make_injector(end: End, *, stall_s: float) -> Injector:
    """Return the injector for the harness's end of a NIC's wire.

    Args:
        end: that end.
        stall_s: how long the guest may refuse to take a frame before that is an error.
    """
    if isinstance(end, Tap):
        return TapInjector(end, stall_s=stall_s)
    return SocketInjector(end, stall_s=stall_s)
