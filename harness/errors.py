"""The one exception tree. Every message says what was tried, what was seen and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.machine.hang.findings import Hang


class LabError(Exception):
    """Base of all errors that cpumap-lab raises on purpose.

    Args:
        message: what was tried and what was seen, in one or two sentences.
        remedy: what the reader can do about it.
        hang: why the guest kept the lab waiting, if that is what went wrong.
    """

    exit_status = 125
    """Exit status of a command that ends with this error (see `harness.verdict`)."""

    def __init__(self, message: str, *, remedy: str = "", hang: Hang | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.hang = hang

    def __str__(self) -> str:
        hang = f"\n  {self.hang.summary}" if self.hang else ""
        remedy = f"\n  remedy: {self.remedy}" if self.remedy else ""
        return f"{self.message}{hang}{remedy}"


class UserError(LabError):
    """The request itself is wrong: a spec, a file, an option."""

    exit_status = 2


class KernelNotFound(UserError):
    """A kernel spec that names nothing we can get."""


class NotLocked(UserError):
    """A kernel other than the one that configs/kernels.lock names, where `--locked` was asked."""


class ScenarioError(UserError):
    """A scenario file that is not a scenario."""


class FetchFailed(LabError):
    """A package or index could not be brought from the mirror."""


class CacheError(LabError):
    """The cache cannot be written (no space, no permission)."""


class ToolMissing(LabError):
    """A program or library that the lab needs is not on this machine."""


class QemuFailed(LabError):
    """QEMU did not start, died, or refused a command."""


class QemuSilent(QemuFailed):
    """QEMU runs and does not answer its monitor."""


class ClockOff(LabError):
    """The guest's clock does not keep the host's time."""


class BootFailed(LabError):
    """The guest did not reach the agent's hello.

    Attributes:
        phase: the last phase reached ("none", "firmware", "kernel", "init", "agent").
        console: the tail of the serial console.
        crashed: True when the console shows that the kernel died; False for a silent hang.
    """

    def __init__(
        self,
        message: str,
        *,
        phase: str,
        console: str,
        crashed: bool = False,
        remedy: str = "",
        hang: Hang | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy, hang=hang)
        self.phase = phase
        self.console = console
        self.crashed = crashed


class TargetFailed(LabError):
    """A machine that is reached over SSH cannot be, or is no longer."""


class HungUp(TargetFailed):
    """A target that let us in has hung up."""


class NotOnTarget(LabError):
    """A machine that is not ours cannot be asked for that: nothing to judge there."""


class AgentLost(LabError):
    """The guest agent missed a deadline or its link closed."""


class GuestError(LabError):
    """A system call or operation in the guest failed when it had to succeed.

    Attributes:
        errno: the guest's errno, positive.
    """

    def __init__(self, message: str, *, errno: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.errno = errno


class NotReset(LabError):
    """A system that serves one case after the other is not as it was before the last."""


class TrafficError(LabError):
    """Frames could not be injected in full."""


class TrafficStalled(TrafficError):
    """The guest stopped taking frames."""


class TraceError(LabError):
    """A trace that cannot be decoded."""
