"""The two ends of a NIC's wire: one for the harness, one for QEMU."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from harness.machine.tap import Tap, make_tap

if TYPE_CHECKING:
    from harness.machine.topology import Nic

End = socket.socket | Tap


def open_wire(nic: Nic) -> tuple[End, tuple[int, ...]]:
    """Return the harness's end of a NIC's wire, and the descriptors for QEMU, to be closed.

    Raises:
        ToolMissing: it takes a tap, and none can be made here.
    """
    if nic.taps:
        return make_tap(nic.taps)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return ours, (theirs.detach(),)


def hang_up(end: End) -> None:
    """Have whoever sends into the harness's end of a wire learn that nobody takes it any more."""
    if isinstance(end, Tap):
        end.hung_up.set()
        return
    with contextlib.suppress(OSError):  # it is closed
        end.shutdown(socket.SHUT_RDWR)
