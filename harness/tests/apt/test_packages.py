"""Versions and the unpacking of packages."""

from __future__ import annotations

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from harness.deb import unpack, version_key
from harness.errors import FetchFailed
from harness.tests.fakes import make_ar, make_deb

VERSIONS = (
    "1.0~rc1-1",
    "1.0-1~bpo12+1",
    "1.0-1",
    "1.0-1+b1",
    "1.0-2",
    "1.0a-1",
    "1.0+deb13-1",
    "1.2-1",
    "1.10-1",
    "7.3~rc7-1~exp1",
    "7.3-1",
    "7.3.4-1~bpo13+1",
    "7.3.4-1",
    "1:0.1",
)


def test_versions_are_ordered() -> None:
    assert sorted(reversed(VERSIONS), key=version_key) == list(VERSIONS)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="no dpkg to compare with")
def test_versions_are_ordered_as_dpkg_does() -> None:
    for low, high in pairwise(VERSIONS):
        subprocess.run(["dpkg", "--compare-versions", low, "lt", high], check=True)


def test_unpack(tmp_path: Path) -> None:
    deb = tmp_path / "x.deb"
    deb.write_bytes(make_deb({"usr/bin/x": b"#!", "usr/lib/y": b"data", "usr/lib/z": "y"}))
    into = tmp_path / "into"
    into.mkdir()
    unpack(deb, into, lambda path: None if path.endswith("x") else path.replace("usr/", ""))
    assert (into / "lib/z").readlink() == Path("y")
    assert (into / "lib/z").read_bytes() == b"data"
    assert not (into / "bin").exists()
    unpack(deb, into)
    assert (into / "usr/bin/x").stat().st_mode & 0o777 == 0o755


def test_unpack_hard_link(tmp_path: Path) -> None:
    deb = tmp_path / "x.deb"
    deb.write_bytes(make_deb({"a": b"one", "b": "=./a"}))
    into = tmp_path / "into"
    into.mkdir()
    unpack(deb, into)
    assert (into / "b").read_text() == "one"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"not an archive at all", "cannot be unpacked"),
        (make_ar({"debian-binary": b"2.0\n"}), "no data.tar"),
        (make_deb({"x": bytes(100_000)})[:-60], "cannot be unpacked"),
        (make_deb({"../../x": b""}), "outside its root"),
    ],
)
def test_unpack_refuses(tmp_path: Path, content: bytes, complaint: str) -> None:
    deb = tmp_path / "x.deb"
    deb.write_bytes(content)
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(FetchFailed, match=complaint):
        unpack(deb, into)
