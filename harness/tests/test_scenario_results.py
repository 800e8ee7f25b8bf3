from __future__ import annotations

import functools
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.errors import CacheError
from harness.paths import cache_dir
from harness.scenario import results
from harness.scenario.results import keep_results, name_results


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path))
    return tmp_path


def kept() -> list[str]:
    return sorted(path.name for path in cache_dir("results").iterdir())


def test_names_say_when_what_and_on_what() -> None:
    name = name_results("my  test/é", "7.3.4+deb13-rt-amd64").name
    assert re.fullmatch(r"\d{8}T\d{6}Z-my-test-7\.3\.4\+deb13-rt-amd64-[0-9a-f]{6}", name)
    assert name_results("..", "path:/x/y").name.split("-")[1:3] == ["unnamed", "path"]
    assert name_results("a", "b") != name_results("a", "b")


def test_results_land_whole() -> None:
    directory = name_results("a", "b")
    keep_results(directory, {"run.json": "{}", "console.log": "\udcff ä"})
    assert kept() == [directory.name]
    assert (directory / "run.json").read_text() == "{}"
    assert (directory / "console.log").read_bytes() == "? ä".encode()
    assert directory.stat().st_mode & 0o777 == 0o755
    assert not any(cache_dir("run").iterdir())


def test_only_the_end_of_what_is_too_long_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MAX_BYTES", 4)
    directory = name_results("a", "b")
    keep_results(directory, {"console.log": "0123456789"})
    assert (directory / "console.log").read_text() == "6789"


@functools.cache  # the same name, however slow the test
def days_ago(days: int) -> str:
    return f"{datetime.now(UTC) - timedelta(days=days):%Y%m%dT%H%M%SZ}-a"


def test_only_the_newest_are_kept() -> None:
    for days in range(5, 0, -1):
        keep_results(cache_dir("results") / days_ago(days), {"run.json": "{}"}, keep=3)
    assert kept() == [days_ago(days) for days in (3, 2, 1)]
    assert not any(cache_dir("run").iterdir())


def test_what_is_old_goes() -> None:
    root = cache_dir("results")
    for days in (40, 29, 0):
        keep_results(root / days_ago(days), {"run.json": "{}"})
    assert kept() == [days_ago(29), days_ago(0)]


def test_all_together_take_so_much_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "KEEP_BYTES", 100_000)
    for days in (3, 2, 1):
        keep_results(cache_dir("results") / days_ago(days), {"a.pcap": bytes(40_000)})
    assert kept() == [days_ago(2), days_ago(1)]
    keep_results(cache_dir("results") / days_ago(0), {"a.pcap": bytes(400_000)})
    assert kept() == [days_ago(0)]


def test_bytes_are_kept_whole_and_files_moved_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_BYTES", 4)
    state = tmp_path / "state.part"
    state.write_bytes(b"ram")
    directory = name_results("a", "b")
    keep_results(directory, {"a.pcap": b"0123456789"}, {"state": state})
    assert (directory / "a.pcap").read_bytes() == b"0123456789"
    assert (directory / "state").read_bytes() == b"ram"
    assert not state.exists()


def test_what_others_put_beside_ours_stays(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "0-thesis").mkdir(parents=True)
    for days in (2, 1):
        keep_results(mine / days_ago(days), {"run.json": "{}"}, keep=1)
    assert {path.name for path in mine.iterdir()} == {"0-thesis", days_ago(1)}
    assert name_results("a", "b", mine).parent == mine


def test_an_interrupted_write_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def interrupt(path: Path, content: bytes) -> int:
        if path.name == "b":
            raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        keep_results(name_results("a", "b"), {"a": "", "b": ""})
    assert kept() == []
    assert not any(cache_dir("run").iterdir())


def test_a_full_disk_is_a_cache_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(CacheError, match="No space left on device"):
        keep_results(name_results("a", "b"), {"a": ""})
    assert kept() == []
