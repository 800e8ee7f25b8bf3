"""`cpumap-lab bench`: how fast guests come up and take frames here, and what limits them."""

from harness.bench.cli import bench

__all__ = ["bench"]
