"""configs/kernels.lock: the very kernels that `--locked` holds everything to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import yaml
from pydantic import Field

from harness.errors import NotLocked
from harness.forms.load import Form
from harness.forms.model import Line, Model, Spec, Words
from harness.kernels.image import KernelPackage, Pin
from harness.kernels.spec import parse_spec
from harness.landing import write_atomically
from harness.paths import REPO

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.kernels.image import KernelImage

FILE = REPO / "configs" / "kernels.lock"
HEAD = """\
# The kernels that `--locked` holds everything to: `cpumap-lab kernels lock` writes this file.
"""

Digest = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$"), Words("a sha256 of 64 hexadecimal digits")
]


class PackageRow(Model):
    """A package that a kernel is unpacked from."""

    name: Line = Field(description="its name")
    version: Line = Field(description="its version")
    sha256: Digest = Field(description="of the package file")


class Row(Model):
    """A kernel that is locked."""

    spec: Spec = Field(description="the spec")
    release: Line = Field(description="its `uname -r`")
    version: Line = Field(description="the package version, or the banner of one's own kernel")
    sha256: Digest = Field(description="of the bzImage")
    packages: tuple[PackageRow, ...] = Field(default=(), description="what it is unpacked from")

    def pin(self) -> Pin:
        """Return what has to be so."""
        packages = [KernelPackage(p.name, p.version, p.sha256) for p in self.packages]
        return Pin(self.release, self.version, self.sha256, frozenset(packages))


class LockFile(Model):
    """What is in the file."""

    kernels: tuple[Row, ...] = Field(description="the kernels")


FORM: Form[LockFile] = Form(
    LockFile, "lock of kernels", "it is written by `cpumap-lab kernels lock`"
)


@dataclass(frozen=True)
class Lock:
    """The kernels that are locked.

    Attributes:
        file: where that is told.
        pins: what has to be so, by spec.
    """

    file: Path
    pins: Mapping[str, Pin]

    def pin(self, spec: str) -> Pin:
        """Return what a spec is held to.

        Raises:
            NotLocked: it is not in the lock.
            KernelNotFound: it is no spec.
        """
        name = str(parse_spec(spec))
        if name not in self.pins:
            raise NotLocked(
                f"{name} is not in {self.file}, and --locked takes nothing else",
                remedy=f"`cpumap-lab kernels lock {name}` puts it there",
            )
        return self.pins[name]


def read_lock(file: Path | None = None) -> Lock:
    """Read the lock.

    Raises:
        UserError: there is none, or it is none, with a line for each thing that is wrong in it.
    """
    file = file or FILE
    if not file.exists():
        raise NotLocked(
            f"there is no {file} to hold kernels to", remedy="`cpumap-lab kernels lock` writes it"
        )
    told, _ = FORM.load(file)
    return Lock(file, {str(parse_spec(row.spec)): row.pin() for row in told.kernels})


def write_lock(kernels: Mapping[str, KernelImage], file: Path | None = None) -> list[str]:
    """Put kernels into the lock, by spec; what else is in it stays.

    Returns:
        What has changed, a line for each.

    Raises:
        UserError: the file that is there is none.
        CacheError: it cannot be written.
    """
    file = file or FILE
    before = dict(read_lock(file).pins) if file.exists() else {}
    after = before | {spec: Pin.of(kernel) for spec, kernel in kernels.items()}
    rows = [
        {
            "spec": spec,
            "release": pin.release,
            "version": pin.version,
            "sha256": pin.sha256,
            "packages": [
                {"name": p.name, "version": p.version, "sha256": p.sha256}
                for p in sorted(pin.packages, key=lambda package: package.name)
            ],
        }
        for spec, pin in after.items()
    ]
    text = yaml.safe_dump({"kernels": rows}, sort_keys=False, width=200)
    write_atomically(file, f"{HEAD}\n{text}".encode())
    return [
        f"{spec}: {before[spec].version if spec in before else 'new'} -> {pin.version}"
        for spec, pin in after.items()
        if before.get(spec) != pin
    ]
