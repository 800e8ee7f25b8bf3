"""`cpumap-lab doctor`: what is here, what is missing, what it costs, and what to do about it."""

from harness.doctor.cli import doctor

__all__ = ["doctor"]
