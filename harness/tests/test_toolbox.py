"""Programs for guests: where they come from, and what goes with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import harness.toolbox
from harness.agent.syscalls import Syscalls
from harness.apt import Archive
from harness.errors import FetchFailed, ToolMissing
from harness.tests.agents import Agent
from harness.tests.fakes import make_elf
from harness.toolbox import Tool, fetch_tool, make_directories, pack, put

if TYPE_CHECKING:
    from collections.abc import Iterator

LS = Tool("coreutils", "/bin/ls", "/bin/ls")
NONE = Tool("no-such", "/bin/no-such", "/bin/no-such")


@pytest.fixture(autouse=True)
def no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))

    def closure(*_: object, **__: object) -> Any:
        raise FetchFailed("the mirror is silent")

    monkeypatch.setattr(Archive, "closure", closure)


@pytest.fixture
def calls() -> Iterator[Syscalls]:
    with Agent() as agent:
        yield Syscalls(agent.link())


def test_without_an_archive_the_machine_s_own_serves() -> None:
    assert fetch_tool(LS) == Path("/")


def test_a_tool_that_is_nowhere() -> None:
    with pytest.raises(ToolMissing, match="no no-such for guests: the mirror is silent"):
        fetch_tool(NONE)


def test_a_tool_that_was_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    root = tmp_path / "cache/toolbox/no-such"
    root.mkdir(parents=True)
    assert fetch_tool(NONE) == root


def test_a_program_comes_with_all_that_it_needs() -> None:
    files = pack([(LS, Path("/"))])
    assert files["/bin/ls"] == Path("/bin/ls")
    assert {"/lib64/libc.so.6", "/lib64/ld-linux-x86-64.so.2"} <= files.keys()


def test_what_came_with_a_program_is_taken_before_the_machine_s(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/lib").mkdir()
    shutil.copy("/bin/ls", tmp_path / "usr/bin/ls")
    machine = pack([(LS, Path("/"))])["/lib64/libc.so.6"]
    shutil.copy(machine, tmp_path / "usr/lib/libc.so.6")
    assert pack([(LS, tmp_path)])["/lib64/libc.so.6"] == tmp_path / "usr/lib/libc.so.6"


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", make_elf()[:70]])
def test_a_program_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/ls").write_bytes(content)
    with pytest.raises(ToolMissing, match="is no program"):
        pack([(LS, tmp_path)])


def test_a_library_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    shutil.copy("/bin/ls", tmp_path / "usr/bin/ls")
    monkeypatch.setattr(harness.toolbox, "MACHINE_LIBRARIES", ())
    with pytest.raises(ToolMissing, match=r"/ls needs \S+, which is neither beside it"):
        pack([(LS, tmp_path)])


def test_a_file_is_put_in_place_of_another(calls: Syscalls, tmp_path: Path) -> None:
    make_directories(calls, [str(tmp_path / "a/b"), str(tmp_path / "a")])
    target = tmp_path / "a/b/tool"
    for content in (b"old", b"new"):
        put(calls, str(target), content, 0o750)
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o750
    assert [path.name for path in target.parent.iterdir()] == ["tool"]
