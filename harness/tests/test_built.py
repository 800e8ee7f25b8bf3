"""Kernels named by the tree, or the commit, that they are to be built from; nothing is compiled."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import harness.kernels.built
from harness.errors import KernelNotFound
from harness.kernels import cached, prune, remembered, resolve
from harness.kernels.build import Built
from harness.tests.fakes import PVH, make_bzimage, make_elf

if TYPE_CHECKING:
    from pathlib import Path

    from harness.kernels.shelf import Cached

SOURCE = "kernel/bpf/cpumap.c"


def git(tree: Path, *words: str) -> str:
    name = ("-c", "user.name=A", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", "-C", tree, *name, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with two commits, and a builder that packs its source as the kernel."""
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    tree = tmp_path / "linux"
    (tree / SOURCE).parent.mkdir(parents=True)
    git(tree, "init", "-q", "-b", "net/main")
    for number in ("one", "two"):
        (tree / SOURCE).write_text(number)
        git(tree, "add", ".")
        git(tree, "commit", "-qm", number)
        git(tree, "tag", f"v7.3-{number}")
    return tree


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was built."""
    done: list[str] = []

    def build(source: Path, fragments: object, output: Path, **_: Any) -> Built:
        text = (source / SOURCE).read_text()
        done.append(text)
        image = output / "arch/x86/boot/bzImage"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(make_bzimage(make_elf({".text": text.encode()}, PVH)))
        (output / ".config").write_text("CONFIG_HZ=100\n")
        (output / "include/config").mkdir(parents=True, exist_ok=True)
        return Built(output, ())

    monkeypatch.setattr(harness.kernels.built, "build_kernel", build)
    return done


def test_tree_as_it_stands(tree: Path, builds: list[str]) -> None:
    spec = f"build:{tree}"
    assert remembered(spec) is None
    kernel = resolve(spec)
    assert (kernel.spec, kernel.boot.name) == (spec, "vmlinux")
    assert remembered(spec) == kernel
    (tree / SOURCE).write_text("three")
    assert resolve(spec).sha256 != kernel.sha256
    assert builds == ["two", "three"]


def test_commits(tree: Path, builds: list[str], tmp_path: Path) -> None:
    told: list[str] = []
    before = [git(tree, "status", "--porcelain=v2", "--branch"), git(tree, "worktree", "list")]
    (tree / SOURCE).write_text("not committed")
    assert remembered(f"build:{tree}@v7.3-one") is None
    one = resolve(f"build:{tree}@v7.3-one", progress=lambda what, *_: told.append(what))
    (clone,) = (tmp_path / "cache/builds").glob("linux-*/.git")
    (clone / "index.lock").touch()  # as a checkout that is killed leaves it
    two = resolve(f"build:{tree}@net/main")
    assert builds == ["one", "two"]
    assert one.sha256 != two.sha256
    assert one.config is not None
    assert one.config.read_text() == "CONFIG_HZ=100\n"
    again = resolve(f"build:{tree}@HEAD~1")
    assert again.vmlinuz == one.vmlinuz
    assert again.spec == f"build:{tree}@HEAD~1"
    assert remembered(f"build:{tree}@HEAD") is not None
    assert len(builds) == 2, "what was built once is known by its commit"
    assert told == [f"checking out {git(tree, 'rev-parse', 'v7.3-one')[:12]} of linux"]
    (tree / SOURCE).write_text("two")
    after = [git(tree, "status", "--porcelain=v2", "--branch"), git(tree, "worktree", "list")]
    assert after == before
    assert [kernel.flavour for kernel in cached()] == ["build", "build"]


def test_git_of_the_caller_is_not_asked(
    tree: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    resolve(f"build:{tree}@HEAD")
    assert builds == ["two"]


def test_prune(tree: Path, builds: list[str]) -> None:
    for spec in (f"build:{tree}", f"build:{tree}@HEAD"):
        with pytest.raises(KernelNotFound, match="not in the cache"):
            prune([spec])
        resolve(spec)
        gone: list[Cached] = prune([spec])
        assert len(gone) == 1
    assert cached() == []


def test_no_such_thing(tree: Path, builds: list[str], tmp_path: Path) -> None:
    for spec, complaint in (
        (f"build:{tmp_path}/none@HEAD", "there is no directory"),
        (f"build:{tmp_path}/none", "there is no directory"),
        (f"build:{tmp_path}@HEAD", "has no commit HEAD"),
        (f"build:{tree}@v9.9", "has no commit v9.9"),
    ):
        for ask in (resolve, remembered):
            with pytest.raises(KernelNotFound, match=complaint) as caught:
                ask(spec)
            assert caught.value.remedy
    assert builds == []
