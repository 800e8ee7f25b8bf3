"""Which build of the archive a spec means."""

from __future__ import annotations

import pytest

from harness.apt import Package
from harness.errors import KernelNotFound
from harness.kernels.debian import builds_of, choose
from harness.kernels.spec import (
    DebianSpec,
    parse_spec,
)


def package(name: str, version: str, depends: str = "", suite: str = "sid") -> Package:
    return Package(name, version, (suite,), "0" * 64, 10, depends)


MONOLITH = "6.1.0-56-cloud-amd64"
SPLIT = "7.3.4+deb13-cloud-amd64"
ALL = [
    package("linux-image-6.1.0-9-cloud-amd64-unsigned", "6.1.90-1"),
    package(f"linux-image-{MONOLITH}", "6.1.192-2"),
    package(f"linux-image-{MONOLITH}-unsigned", "6.1.192-2"),
    package("linux-image-6.1-cloud-amd64", "6.1.999-1", f"linux-image-{MONOLITH} (= 6.1.192-2)"),
    package("linux-image-6.1.0-56-rt-amd64", "6.1.192-2"),
    package("linux-image-7.3-cloud-amd64", "7.3~rc7-1~exp1", "linux-binary-7.3-cloud-amd64"),
    package("linux-binary-7.3-cloud-amd64", "7.3~rc7-1~exp1"),
    package("linux-modules-7.3-cloud-amd64", "7.3~rc7-1~exp1"),
    package("linux-base-7.3-cloud-amd64", "7.3~rc7-1~exp1"),
    package(f"linux-image-{SPLIT}", "7.3.4-1~bpo13+1", f"linux-binary-{SPLIT}"),
    package(f"linux-binary-{SPLIT}", "7.3.4-1~bpo13+1"),
    package(f"linux-modules-{SPLIT}", "7.3.4-1~bpo13+1"),
    package(f"linux-base-{SPLIT}", "7.3.4-1~bpo13+1"),
    package("linux-binary-7.1.2-cloud-amd64", "7.1.2-1"),
    package("linux-image-7.1.2-cloud-amd64", "7.1.2-1", "linux-binary-7.1.2-cloud-amd64"),
    package("linux-image-6.1.0-56-cloud-amd64-dbg", "6.1.192-2"),
]


def test_builds() -> None:
    builds = builds_of(reversed(ALL))
    assert [(build.version, build.flavour, build.complete) for build in builds] == [
        ("6.1.90-1", "cloud", True),
        ("6.1.192-2", "rt", True),
        ("6.1.192-2", "cloud", True),
        ("7.1.2-1", "cloud", False),
        ("7.3~rc7-1~exp1", "cloud", True),
        ("7.3.4-1~bpo13+1", "cloud", True),
    ]
    names = {build.release: [part.name for part in build.packages] for build in builds}
    assert names[MONOLITH] == [f"linux-image-{MONOLITH}"]
    assert names["6.1.0-9-cloud-amd64"] == ["linux-image-6.1.0-9-cloud-amd64-unsigned"]
    assert names[SPLIT] == [f"linux-{part}-{SPLIT}" for part in ("binary", "modules", "base")]


@pytest.mark.parametrize(
    ("spec", "version"),
    [
        ("debian:6.1", "6.1.192-2"),
        ("debian:6.1.90", "6.1.90-1"),
        ("debian:6.1-rt", "6.1.192-2"),
        ("debian:7.3", "7.3.4-1~bpo13+1"),
        ("debian:7.3-rc7", "7.3~rc7-1~exp1"),
        ("debian:7.3-cloud-amd64", "7.3~rc7-1~exp1"),
        ("debian:6.1.0-9-cloud-amd64", "6.1.90-1"),
    ],
)
def test_choice(spec: str, version: str) -> None:
    parsed = parse_spec(spec)
    assert isinstance(parsed, DebianSpec)
    assert choose(parsed, builds_of(ALL)).version == version


@pytest.mark.parametrize(
    ("spec", "message", "remedy"),
    [
        (
            "debian:6.1.100",
            "has no kernel for debian:6.1.100",
            "debian has 6.1.90 … 6.1.192; nearest: debian:6.1.90",
        ),
        ("debian:6.12", "has no kernel", "debian has 6.1, 7.3; nearest: debian:6.1"),
        ("debian:7.1", "no longer its modules", "nearest: debian:7.3"),
        ("debian:6.1.7-rt", "has no kernel", "debian has 6.1.192; nearest: debian:6.1.192-rt"),
        ("debian:6.1-amd64", "has no kernel", "there is no amd64 kernel at all"),
        ("debian:6.1.0-1-cloud-amd64", "has no kernel", "debian has 6.1.90 … 6.1.192"),
    ],
)
def test_choice_of_nothing(spec: str, message: str, remedy: str) -> None:
    parsed = parse_spec(spec)
    assert isinstance(parsed, DebianSpec)
    with pytest.raises(KernelNotFound, match=message) as caught:
        choose(parsed, builds_of(ALL))
    assert remedy in caught.value.remedy
