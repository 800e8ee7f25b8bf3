"""CPUs and NICs plugged into a running guest or taken out of it, CPUs on- and offline."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from harness.errors import GuestError, UserError
from harness.guest import bring_up_nic, interface_name
from harness.machine import plug
from harness.machine.command import nic_id
from harness.patience import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.guest import Guest

ABSENT = {errno.ENOENT, errno.ENODEV}
ONLINE = "/sys/devices/system/cpu/cpu{}/online"
WAIT_S = 60.0


def set_online(guest: Guest, cpu: int, *, online: bool) -> None:
    """Take a CPU that is present online or offline.

    The first time, it gets kthreads that it keeps (kernel/smpboot.c): no reset undoes that.

    Raises:
        GuestError: the guest refuses it.
    """
    own = f"cpuhp/{cpu}"
    if online and own not in guest.threads(own).values():
        guest.spoilt.append(f"CPU {cpu} came up for the first time")
    guest.write(ONLINE.format(cpu), str(int(online)))


def unplug_cpu(guest: Guest, cpu: int) -> None:
    """Take a spare CPU out of a guest: it is not present afterwards, only possible.

    Raises:
        QemuSilent: the guest does not let it go.
        QemuFailed: it is not plugged in, or QEMU has gone.
    """
    plug.remove_cpu(guest.own, cpu)


def plug_cpu(guest: Guest, cpu: int) -> None:
    """Plug a spare CPU into a guest and take it online.

    Raises:
        TrafficStalled: the guest does not find it.
        GuestError: the guest cannot take it online.
        QemuFailed: it is plugged in already, or QEMU has gone.
    """
    plug.add_cpu(guest.own, cpu)
    online = ONLINE.format(cpu)
    _wait(guest, lambda: _answers(guest, online), f"the guest does not find CPU {cpu}")
    if guest.read(online).strip() != "1":
        set_online(guest, cpu, online=True)


def unplug_nic(guest: Guest, nic: int) -> None:
    """Take a NIC out of a guest.

    No frame may be on its way to a cpumap's ring or be in one: until it has been delivered, none
    holds the device (see cases/test_known.py).

    Raises:
        QemuSilent: the guest does not let it go.
        QemuFailed: it is not plugged in, or QEMU has gone.
    """
    plug.remove_nic(guest.own, nic)


def plug_nic(guest: Guest, nic: int) -> None:
    """Plug a NIC that was taken out in again, and bring it up as it was.

    Raises:
        UserError: one before it is out as well: its name would be taken.
        TrafficStalled: the guest does not find it.
        GuestError: the guest cannot bring it up.
        QemuFailed: it is plugged in already, or QEMU has gone.
    """
    before = [other for other in range(nic) if nic_id(other) in guest.own.absent]
    if before:
        raise UserError(f"NIC {before[0]} is out as well: plug it in first, or {nic} gets its name")
    plug.add_nic(guest.own, nic)
    name = interface_name(nic)
    _wait(guest, lambda: guest.has_interface(name), f"the guest does not find NIC {nic}")
    guest.ifindex[name] = bring_up_nic(guest.calls, nic)


def set_link(guest: Guest, nic: int, *, up: bool) -> None:
    """Plug a NIC's cable in or pull it, and wait until the guest knows.

    Frames that are sent to it while the cable is out are lost on the wire.

    Raises:
        TrafficStalled: the guest is never told.
        QemuFailed: QEMU has gone.
    """
    plug.set_link(guest.own, nic, up=up)
    carrier = f"/sys/class/net/{interface_name(nic)}/carrier"
    told = f"the guest is not told that the link of NIC {nic} is {'up' if up else 'down'}"
    _wait(guest, lambda: guest.read(carrier).strip() == str(int(up)), told)


def _answers(guest: Guest, path: str) -> bool:
    try:
        guest.read(path)
    except GuestError as error:
        if error.errno not in ABSENT:
            raise
        return False
    return True


def _wait(guest: Guest, met: Callable[[], bool], told: str) -> None:
    limit = WAIT_S * guest.own.recipe.accel.pace
    if not wait_until(met, limit):
        raise guest.stalled(f"{told} within {limit:.0f} s")
