"""Kernel sources out of linux-source packages, and the command that builds them."""

from __future__ import annotations

import lzma
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import harness.apt.mirrors
import harness.kernels.build_cli
from harness.apt import Package
from harness.errors import FetchFailed, KernelNotFound
from harness.kernels.build import Built
from harness.kernels.build_cli import build_command
from harness.kernels.source import choose_source, fetch_source
from harness.tests.fakes import FakeApt, make_tar

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = [
    Package(f"linux-source-{series}", version, ("sid",), "00", 1)
    for series, version in (
        ("7.3", "7.3~rc7-1~exp1"),
        ("6.12", "6.12.117-1"),
        ("7.3", "7.3.4-1~bpo13+1"),
        ("6.12", "6.12.95-1"),
    )
]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    return FakeApt.serve(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("wanted", "version"),
    [
        ("debian:newest", "7.3.4-1~bpo13+1"),
        ("debian:7.3", "7.3.4-1~bpo13+1"),
        ("debian:6.12", "6.12.117-1"),
        ("debian:6.12.95", "6.12.95-1"),
    ],
)
def test_which_source_is_meant(wanted: str, version: str) -> None:
    assert choose_source(wanted, PACKAGES).version == version


def test_a_source_that_is_not_there_is_named() -> None:
    with pytest.raises(KernelNotFound, match=r"for debian:6\.1\n.*6\.12\.95, 6\.12\.117"):
        choose_source("debian:6.1", PACKAGES)
    with pytest.raises(KernelNotFound, match="the forms are debian:newest"):
        choose_source("linux-source-6.1", PACKAGES)


def test_a_source_is_fetched_and_unpacked_once(apt: FakeApt) -> None:
    tree = make_tar({"linux-source-7.3/Kbuild": b"x", "linux-source-7.3/a/b.c": b"int x;"})
    name = "usr/src/linux-source-7.3.tar.xz"
    apt.add("linux-source-7.3", "7.3.4-1", "sid", {name: lzma.compress(tree)})
    told: list[str] = []
    where = fetch_source("debian:7.3", progress=lambda what, *_: told.append(what))
    assert where.name == "linux-7.3.4-1"
    assert (where / "a/b.c").read_text() == "int x;"
    assert "unpacking linux-source-7.3.tar.xz" in told
    done = len(apt.log)
    assert fetch_source("debian:7.3.4") == where
    assert not any("download" in line for line in apt.log[done:])


@pytest.mark.parametrize(
    "content", [{"usr/x": b"no source"}, {"usr/linux-source-7.3.tar.xz": b"?"}]
)
def test_a_package_without_a_source_leaves_nothing(
    apt: FakeApt, tmp_path: Path, content: dict[str, bytes]
) -> None:
    apt.add("linux-source-7.3", "7.3.4-1", "sid", content)
    with pytest.raises(FetchFailed):
        fetch_source("debian:7.3")
    assert not [p for p in (tmp_path / "cache/sources").iterdir() if p.is_dir()]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def build(source: Path, fragments: object, output: Path, **how: object) -> Built:
        asked.extend((source, [part.name for part in fragments], how["jobs"]))  # type: ignore[attr-defined]
        return Built(output, ("PREEMPT_VOLUNTARY=y", "GCOV_KERNEL=y", "OWN=y"))

    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(harness.kernels.build_cli, "build_kernel", build)
    own = tmp_path / "own.config"
    own.write_text("CONFIG_OWN=y\n")
    options = ["--debug", "gcov", "--config", str(own), "--jobs", "1"]
    done = CliRunner().invoke(build_command, [str(tmp_path), *options])
    assert asked == [tmp_path, ["minimal", "gcov", "own"], 1]
    assert done.stdout.startswith("path:")
    assert done.stdout.endswith("/arch/x86/boot/bzImage\n")
    assert done.stderr == "note: this tree lacks, or sets otherwise, GCOV_KERNEL=y, OWN=y\n"
    both = CliRunner().invoke(build_command, [str(tmp_path), "--source", "debian:7.3"])
    assert both.exit_code == 2
