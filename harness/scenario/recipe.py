"""What a run is made from, told so that what has changed of it since can be seen."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.landing import sha256_of
from harness.paths import REPO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from harness.kernels import KernelImage
    from harness.kernels.image import RunningKernel
    from harness.report.record import QemuRecord
    from harness.scenario.schema import Scenario

LABELS = {
    "initramfs": "initramfs",
    "qemu": "QEMU",
    "qemu_sha256": "QEMU sha256",
    "accelerator": "accelerator",
    "threads": "threads of QEMU",
    "lab": "cpumap-lab",
    "lab_sha256": "cpumap-lab sha256",
}
"""Keys of a recipe that are one value each, and what they are called."""
KERNEL_KEYS = ("release", "version", "sha256")


@cache
def tell_lab() -> dict[str, str]:
    """Return what is to be told of this cpumap-lab: its version, and a digest of its sources.

    The agent and the guest's programs are not in it: they are in the initramfs.
    """
    digest = hashlib.sha256()
    harness = REPO / "harness"
    for path in sorted(harness.rglob("*.py")):
        name = path.relative_to(harness)
        if name.parts[0] != "tests":
            digest.update(f"{name} {sha256_of(path)}\n".encode())
    version = importlib.metadata.version("cpumap-lab")
    return {"lab": version, "lab_sha256": digest.hexdigest()}


def digest_files(scenario: Scenario) -> dict[str, str]:
    """Return the sha256 of each file of the user's that a scenario takes, by its path.

    Raises:
        OSError: one of them cannot be read any more.
    """
    programs = [part.program for part in scenario.entries]
    programs += [step.program for step in scenario.timeline]
    paths = [
        scenario.steer.object,
        *(program.object for program in programs if program),
        *(flow.pcap for flow in scenario.traffic),
    ]
    return {path: sha256_of(Path(path)) for path in dict.fromkeys(paths) if path}


def tell_recipe(
    image: KernelImage | RunningKernel | None, qemu: QemuRecord, **found: object
) -> dict[str, object]:
    """Return all that a run was made from, as far as it came, for run.json.

    Args:
        image: the kernel.
        qemu: the machine.
        found: more of it, by key.
    """
    kernel = None if image is None else {key: getattr(image, key) for key in KERNEL_KEYS}
    machine = {"qemu": qemu.version, "accelerator": qemu.accelerator, "threads": qemu.threads}
    return {"kernel": kernel, **machine, **tell_lab(), **found}


def list_recipe(recipe: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield what a recipe of run.json says, each with a name for people."""
    kernel, files = recipe.get("kernel"), recipe.get("files")
    if isinstance(kernel, dict):
        yield from ((f"kernel {key}", kernel.get(key)) for key in KERNEL_KEYS)
    yield from ((label, recipe[key]) for key, label in LABELS.items() if key in recipe)
    if isinstance(files, dict):
        yield from ((f"file {path}", digest) for path, digest in files.items())
