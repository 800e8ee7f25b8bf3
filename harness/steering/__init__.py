"""One steered run on a guest: its programs, cpumaps and traffic, and the books of it."""

from harness.steering.plan import Plan
from harness.steering.run import Steering

__all__ = ["Plan", "Steering"]
