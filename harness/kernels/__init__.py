"""Where kernels come from: the Debian archive, or a bzImage of one's own."""

from harness.kernels.image import KernelImage
from harness.kernels.modules import ModulePlan, plan_modules, read_module
from harness.kernels.shelf import Cached, cached, prune
from harness.kernels.spec import KernelSpec, parse_spec
from harness.kernels.store import remembered, resolve

__all__ = [
    "Cached",
    "KernelImage",
    "KernelSpec",
    "ModulePlan",
    "cached",
    "parse_spec",
    "plan_modules",
    "prune",
    "read_module",
    "remembered",
    "resolve",
]
