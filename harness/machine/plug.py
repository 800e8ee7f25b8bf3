"""Devices that come and go while QEMU runs, through its monitor; the guest has a say in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import QemuSilent, UserError
from harness.machine.command import CPU_PLUGS, cpu_device, cpu_id, netdev_id, nic_device, nic_id
from harness.patience import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.machine.machine import Machine

PLUGGED = "/machine/peripheral"
LET_GO_S = 60.0
EJECTING = 0x84
"""What a guest says while it ejects a device (_OST, ACPI 6.5, 6.3.5)."""


def remove_cpu(machine: Machine, cpu: int) -> None:
    """Take a spare CPU out; the guest takes it offline itself, and then lets it go.

    Raises:
        QemuSilent: the guest does not let it go.
        QemuFailed: QEMU refused, for it is not plugged in, or has gone.
    """
    name = cpu_id(cpu)
    _remove(machine, name, lambda: _is_plugged(machine, name) or _ejects(machine, cpu))


def add_cpu(machine: Machine, cpu: int) -> None:
    """Plug a spare CPU in.

    Raises:
        UserError: so many were plugged in that QEMU takes no more.
        QemuFailed: QEMU refused, for it is plugged in, or has gone.
    """
    if machine.cpus_plugged == CPU_PLUGS:
        raise UserError(f"{CPU_PLUGS} CPUs were plugged into this guest, and QEMU takes no more")
    machine.qmp("device_add", **cpu_device(cpu, machine.recipe.accel.cpu))
    machine.cpus_plugged += 1
    machine.absent.discard(cpu_id(cpu))


def remove_nic(machine: Machine, nic: int) -> None:
    """Take a NIC out; the guest's driver lets it go.

    Raises:
        QemuSilent: the guest does not let it go.
        QemuFailed: QEMU refused, for it is not plugged in, or has gone.
    """
    name = nic_id(nic)
    _remove(machine, name, lambda: _is_plugged(machine, name))


def add_nic(machine: Machine, nic: int) -> None:
    """Plug a NIC in again, on the wire that it was on.

    Raises:
        QemuFailed: QEMU refused, for it is plugged in, or has gone.
    """
    machine.qmp("device_add", **nic_device(machine.recipe.topology, nic))
    machine.absent.discard(nic_id(nic))


def set_link(machine: Machine, nic: int, *, up: bool) -> None:
    """Plug a NIC's cable in, or pull it: what is sent to it meanwhile is lost, and nobody is told.

    Raises:
        QemuFailed: QEMU has gone.
    """
    machine.qmp("set_link", name=netdev_id(nic), up=up)


def _is_plugged(machine: Machine, device: str) -> bool:
    """Tell whether QEMU has a device: of a CPU it sends no DEVICE_DELETED, but of its APIC."""
    return device in {part["name"] for part in machine.qmp("qom-list", path=PLUGGED)}


def _ejects(machine: Machine, cpu: int) -> bool:
    """Tell whether the guest is still at an eject; a CPU plugged in then goes unnoticed."""
    told = {slot["slot"]: slot["status"] for slot in machine.qmp("query-acpi-ospm-status")}
    return bool(told[str(cpu)] == EJECTING)


def _remove(machine: Machine, device: str, held: Callable[[], bool]) -> None:
    machine.qmp("device_del", id=device)
    limit = LET_GO_S * machine.recipe.accel.pace
    if not wait_until(lambda: not held(), limit):
        error = QemuSilent(f"the guest did not let go of {device} within {limit:.0f} s")
        error.hang = machine.examine(error.message)
        raise error
    machine.absent.add(device)
