"""What building a kernel takes, and what of it this machine lacks.

Documentation/process/changes.rst lists the tools. The lab's other parts need none of them but the
compiler, so `ci/setup` installs them only when it is asked to (`ci/setup --kernels`).
"""

from __future__ import annotations

import re
import shutil
import subprocess

from harness.errors import ToolMissing

PROGRAMS = {
    "make": "make",
    "gcc": "gcc",
    "ld": "binutils",
    "objcopy": "binutils",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
}
"""Programs, each with its Debian package."""
HEADERS = {"gelf.h": "libelf-dev", "openssl/opensslv.h": "libssl-dev"}
"""Headers that the kernel's own tools are compiled with, each with its Debian package."""
REMEDY = "as root run `ci/setup --kernels`, or apt-get install {}"
COMPILE_S = 60.0

_NOT_FOUND = re.compile(
    r"(?:\s([\w.+-]+): (?:command )?not found|make(?:\[\d+\])?: ([\w.+-]+): No such file)"
)
_NO_HEADER = re.compile(r"fatal error: ((?:gelf|libelf|elf)\.h|openssl/\S+\.h): No such file")


def check_toolchain() -> None:
    """See that all is here that builds a kernel.

    Raises:
        ToolMissing: it names all that is missing, and the packages to install.
    """
    lacking = {tool: package for tool, package in PROGRAMS.items() if shutil.which(tool) is None}
    if "gcc" not in lacking:
        lacking |= {name: package for name, package in HEADERS.items() if not _has_header(name)}
    if lacking:
        packages = " ".join(dict.fromkeys(lacking.values()))
        raise ToolMissing(
            f"to build kernels this machine lacks {', '.join(lacking)}",
            remedy=REMEDY.format(packages),
        )


def missing_tool(log: str) -> ToolMissing | None:
    """Return the error that a build's output tells of a tool or header missing; None if of none."""
    if found := _NOT_FOUND.search(log):
        tool = found[1] or found[2]
        package = PROGRAMS.get(tool, f"the package that brings {tool}")
    elif found := _NO_HEADER.search(log):
        tool = found[1]
        package = HEADERS["openssl/opensslv.h" if tool.startswith("openssl") else "gelf.h"]
    else:
        return None
    return ToolMissing(
        f"building this kernel takes {tool}, which is not on this machine",
        remedy=REMEDY.format(package),
    )


def _has_header(name: str) -> bool:
    asked = subprocess.run(
        ["gcc", "-E", "-x", "c", "-"],
        input=f"#include <{name}>\n",
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
        check=False,
    )
    return asked.returncode == 0
