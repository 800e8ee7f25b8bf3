"""How kernels are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import KernelNotFound, UserError
from harness.kernels.image import kernel_numbers
from harness.kernels.spec import (
    BuildSpec,
    DebianSpec,
    InstalledSpec,
    KernelSpec,
    PackageSpec,
    PathSpec,
    TreeSpec,
    parse_spec,
)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("debian:6.1", DebianSpec("6.1", "cloud")),
        (" debian:6.1\n", DebianSpec("6.1", "cloud")),
        ("debian:7.3-rt", DebianSpec("7.3", "rt")),
        ("debian:6.12.43-amd64", DebianSpec("6.12.43", "amd64")),
        ("debian:7.3-rc7-rt", DebianSpec("7.3-rc7", "rt")),
        (
            "debian:6.1.0-56-cloud-amd64",
            DebianSpec("", "cloud", "6.1.0-56-cloud-amd64"),
        ),
        ("debian:6.12.90+deb12.1-amd64", DebianSpec("", "amd64", "6.12.90+deb12.1-amd64")),
        ("path:/x/bzImage", PathSpec(Path("/x/bzImage"))),
        ("path:b,modules=/m", PathSpec(Path("b"), Path("/m"))),
        ("deb:/a.deb,b.deb", PackageSpec("deb", (Path("/a.deb"), Path("b.deb")))),
        ("rpm:/a.rpm", PackageSpec("rpm", (Path("/a.rpm"),))),
        ("installed", InstalledSpec("")),
        ("installed:6.8.0-48-generic", InstalledSpec("6.8.0-48-generic")),
        ("tree:/usr/src/linux", TreeSpec(Path("/usr/src/linux"))),
        ("build:linux", BuildSpec(Path("linux"))),
        ("build:/a@b/linux@v6.1~3", BuildSpec(Path("/a@b/linux"), "v6.1~3")),
        ("build:linux@net/main", BuildSpec(Path("linux"), "net/main")),
    ],
)
def test_spec(text: str, spec: KernelSpec) -> None:
    assert parse_spec(text) == spec
    assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    "text",
    [
        *("", "6.1", "debian:", "debian:six", "debian:6", "debian:6.1-cloudy", "debian:../x"),
        *("path:", "path:b,modules=", "path:b,modules=c,modules=d", "fedora:40"),
        *("deb:", "rpm:a.rpm,", "installed:", "installed:../x", "tree:", "tree"),
        *("build:", "build:@HEAD", "build:linux@", "build:linux@--help"),
    ],
)
def test_bad_spec(text: str) -> None:
    with pytest.raises(KernelNotFound, match="no kernel spec") as caught:
        parse_spec(text)
    assert isinstance(caught.value, UserError)
    assert "debian:6.1" in caught.value.remedy


def test_home_is_expanded() -> None:
    spec = parse_spec("path:~/bzImage,modules=~/m")
    assert spec == PathSpec(Path.home() / "bzImage", Path.home() / "m")


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("6.1.192-2", (6, 1, 192)),
        ("7.3~rc7-1~exp1", (7, 3, 0)),
        ("6.1.0-56-cloud-amd64 (x) #1 SMP Debian 6.1.192-2 (2026-11-16)", (6, 1, 192)),
        ("6.8.0-48-generic (x) #48-Ubuntu SMP", (6, 8, 0)),
        ("7.4.0-rc1+ (me@here) #1", (7, 4, 0)),
    ],
)
def test_numbers(version: str, numbers: tuple[int, int, int]) -> None:
    assert kernel_numbers(version) == numbers


def test_no_numbers() -> None:
    with pytest.raises(ValueError, match="no kernel version"):
        kernel_numbers("mainline")
