"""Which builds lie between two kernels, and bringing the next one beforehand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import harness.bisect.packages
from harness.apt import Package
from harness.bisect.packages import Candidate, Prefetch, bring, find_candidates, merge, weigh
from harness.errors import FetchFailed, KernelNotFound, UserError
from harness.kernels.debian import Build, builds_of
from harness.kernels.shelf import Cached
from harness.patience import wait_until
from harness.tests.fakes import LATE_S

DROPPED = "the archive has dropped its modules"


def package(name: str, version: str) -> Package:
    return Package(name, version, ("trixie",), "0" * 64, 1000)


def image(release: str, version: str) -> Package:
    return package(f"linux-image-{release}-amd64", version)


PACKAGES = [
    image("6.12.43+deb12-cloud", "6.12.43-1~bpo12+1"),
    image("6.12.90+deb12-cloud", "6.12.90-1~bpo12+1"),
    image("6.12.90+deb13-cloud", "6.12.90-1"),
    image("6.12.90+deb13-rt", "6.12.90-1"),
    image("6.12.117+deb13-cloud", "6.12.117-1"),
    package("linux-binary-6.19.6+deb13-cloud-amd64", "6.19.6-1"),
    package("linux-base-6.19.6+deb13-cloud-amd64", "6.19.6-1"),
    *(
        package(f"linux-{part}-7.3.4+deb13-cloud-amd64", "7.3.4-1")
        for part in ("binary", "modules", "base")
    ),
]


def cached(release: str, version: str) -> Cached:
    return Cached(f"debian:{release}", Path("x"), release, version, "cloud", 1)


HERE = [
    cached("6.12.117+deb13-cloud-amd64", "6.12.117-1"),
    cached("6.16.3+deb13-cloud-amd64", "6.16.3-1"),  # no longer in the archive
    cached("7.3.4+deb13-cloud-amd64", "7.3.4-1"),
]


class Shelf:
    """An archive and a cache of our own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packages: list[Package] | FetchFailed = PACKAGES
        self.here = HERE

        def patch(name: str, value: Any) -> None:
            monkeypatch.setattr(harness.bisect.packages, name, value)

        patch("Archive", lambda: _Archive(self))
        patch("cached", lambda: self.here)
        patch("remembered", self._remembered)

    def _remembered(self, spec: str) -> Cached | None:
        known = {"debian:6.12": HERE[0], "debian:7.3": HERE[2], "debian:6.16": HERE[1]}
        return known.get(spec)


class _Archive:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def packages(self, _: str, **__: object) -> list[Package]:
        if isinstance(self._shelf.packages, FetchFailed):
            raise self._shelf.packages
        return self._shelf.packages


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    return Shelf(monkeypatch)


def told(candidates: list[Candidate]) -> list[tuple[str, int, str]]:
    return [(each.version, each.bytes, each.gone) for each in candidates]


def test_all_builds_between_two(shelf: Shelf) -> None:
    found, notes = find_candidates(("debian:6.12.43", "debian:7.3"))
    assert notes == []
    assert told(found) == [
        ("6.12.43-1~bpo12+1", 1000, ""),
        ("6.12.90-1~bpo12+1", 1000, ""),
        ("6.12.90-1", 1000, ""),
        ("6.12.117-1", 0, ""),
        ("6.16.3-1", 0, ""),
        ("6.19.6-1", 2000, DROPPED),
        ("7.3.4-1", 0, ""),
    ]
    assert found[2].spec == "debian:6.12.90+deb13-cloud-amd64"
    assert found[2].upstream == "6.12.90"


def test_the_newest_of_a_series_begins_there(shelf: Shelf) -> None:
    found, _ = find_candidates(("debian:6.12", "debian:7.3"))
    assert [each.version for each in found] == ["6.12.117-1", "6.16.3-1", "6.19.6-1", "7.3.4-1"]


def test_only_what_is_here(shelf: Shelf) -> None:
    shelf.packages = FetchFailed("not asked")
    found, notes = find_candidates(("debian:6.12", "debian:7.3"), only_cached=True)
    assert [each.version for each in found] == ["6.12.117-1", "6.16.3-1", "7.3.4-1"]
    assert notes == []
    with pytest.raises(KernelNotFound, match=r"6.12.43 is not in the cache"):
        find_candidates(("debian:6.12.43", "debian:7.3"), only_cached=True)


def test_without_the_archive_it_is_what_is_here(shelf: Shelf) -> None:
    shelf.packages = FetchFailed("no network")
    found, notes = find_candidates(("debian:6.12", "debian:7.3"))
    assert len(found) == 3
    assert notes == ["only what is in the cache is considered: no network"]


def test_what_the_user_skips(shelf: Shelf) -> None:
    found, _ = find_candidates(("debian:6.12", "debian:7.3"), skip=["debian:6.16"])
    assert found[1].gone == "as you say"
    with pytest.raises(UserError, match="is an end"):
        find_candidates(("debian:6.12", "debian:7.3"), skip=["debian:7.3"])


@pytest.mark.parametrize(
    ("ends", "complaint"),
    [
        (("debian:7.3", "debian:6.12"), r"newer than the bad one: debian:7.3 \(7.3.4-1\)"),
        (("debian:6.12", "debian:6.12.117"), "are the same build"),
        (("debian:6.12-rt", "debian:7.3"), "is of the rt flavour"),
        (("path:/x", "debian:7.3"), "path:/x is no kernel of the Debian archive"),
        (("debian:6.13", "debian:7.3"), "no kernel for debian:6.13"),
        (("what", "debian:7.3"), "is no kernel spec"),
    ],
)
def test_ends_that_make_no_row(shelf: Shelf, ends: tuple[str, str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        find_candidates(ends)


def test_either_way_round_for_a_fix(shelf: Shelf) -> None:
    one, _ = find_candidates(("debian:7.3", "debian:6.12"), any_order=True)
    other, _ = find_candidates(("debian:6.12", "debian:7.3"), any_order=True)
    assert one == other


def test_release_that_was_built_twice() -> None:
    twice = [image("7.3-cloud", "7.3~rc6-1"), image("7.3-cloud", "7.3~rc7-1")]
    found = merge(builds_of(twice), [], "cloud")
    assert found[0].gone == "debian:7.3-cloud-amd64 names a later build"
    assert found[1].gone == ""


def test_a_release_weighs_more_than_updates() -> None:
    builds: list[Build] = builds_of(PACKAGES)
    found = merge(builds, HERE, "cloud")
    assert weigh(found[0], found[3]) == 74
    assert weigh(found[3], found[4]) == 400
    assert weigh(found[5], found[6]) == 400  # 6.19 is followed by 7.0


def test_what_was_replaced_meanwhile_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def resolve(spec: str, *, refresh: bool, progress: object) -> Cached:
        asked.append(refresh)
        return HERE[0]

    monkeypatch.setattr(harness.bisect.packages, "resolve", resolve)
    candidate = Candidate("debian:6.12.116+x-cloud-amd64", "6.12.116+x", "6.12.116-1", "cloud", 1)
    assert bring(candidate) == "debian:6.12.116+x-cloud-amd64 is 6.12.117-1 now"
    assert asked == [False, True]


# Bringing the next one


def candidate(spec: str, size: int = 1) -> Candidate:
    return Candidate(spec, "r", "1-1", "cloud", size)


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Have a fetch write its spec, and take for ever if that is `debian:6.1`."""
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys, time\n"
        f"pathlib.Path({str(tmp_path)!r}, 'asked').open('a').write(sys.argv[-1] + '\\n')\n"
        "time.sleep(600 if sys.argv[-1] == 'debian:6.1' else 0)\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(harness.bisect.packages, "remembered", lambda _: None)
    return tmp_path / "asked"


def test_the_right_guess_is_waited_for(fetches: Path) -> None:
    prefetch = Prefetch()
    prefetch.start(candidate("debian:6.12"))
    prefetch.wait(candidate("debian:6.12"))
    assert fetches.read_text() == "debian:6.12\n"


def test_the_wrong_guess_is_ended(fetches: Path) -> None:
    prefetch = Prefetch()
    prefetch.start(candidate("debian:6.1"))
    assert wait_until(lambda: fetches.exists() and fetches.read_text() != "", LATE_S)
    prefetch.wait(candidate("debian:6.12"))
    assert fetches.read_text() == "debian:6.1\n"


def test_what_is_here_is_not_brought(fetches: Path) -> None:
    prefetch = Prefetch()
    prefetch.start(candidate("debian:6.12", 0))
    prefetch.stop()
    assert not fetches.exists()
