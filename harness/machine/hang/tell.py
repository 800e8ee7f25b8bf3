"""All that was found out about a guest that kept the lab waiting, as a text. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.machine.hang.findings import Findings, Hang, Vcpu


def tell_hang(found: Findings, hang: Hang) -> str:
    """Return the text of `hang.txt`."""
    return "\n".join([hang.summary, f"waited for: {found.waited_for}", *_tell(found)]) + "\n"


def _tell(found: Findings) -> Iterator[str]:
    yield f"\nhost: {found.pressure}"
    if found.life:
        yield f"QEMU: state {found.state}; since it began it {found.life}"
    if found.window:
        yield f"between the two looks it {found.window}"
    if found.mute:
        yield found.mute
    if not found.ended and not found.mute:
        yield f"the guest's state, as QEMU tells it: {found.run_state}"
    if not found.booting:
        yield f"the agent answers: {'yes' if found.answers else 'no'}"
    for cpu, vcpu in found.vcpus.items():
        yield from _tell_vcpu(cpu, vcpu)
    if found.threads:
        yield "\nThe agent's threads and cpumap's:"
    for task in found.threads:
        yield f"{task.comm} (pid {task.pid}), state {task.state}: {' < '.join(task.frames)}"
    if found.console:
        yield f"\nWhat the kernel printed when it was asked for backtraces:\n{found.console}"


def _tell_vcpu(cpu: int, vcpu: Vcpu) -> Iterator[str]:
    yield f"\nCPU {cpu}: its thread ran {vcpu.ran:.0%} of the time; it would have {vcpu.wanted:.0%}"
    for registers, place in zip(vcpu.registers, vcpu.places, strict=True):
        how = "halted" if registers.halted else "in user space" if registers.user else "running"
        yield f"  {how} at {registers.rip:#x}, {place}; stack at {registers.rsp:#x}"
    if vcpu.stack:
        yield "  functions on its stack, some perhaps of calls that are over:"
        yield from (f"    {name}" for name in vcpu.stack)
