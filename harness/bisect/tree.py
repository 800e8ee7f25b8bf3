"""A kernel's git tree: building what is checked out and judging it, and git's own bisection."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.bisect.sight import LabBroken, Sight
from harness.errors import KernelNotFound, LabError, ToolMissing, UserError
from harness.kernels.build import BuildFailed, build_kernel, output_of
from harness.kernels.kconfig import own_fragments

if TYPE_CHECKING:
    from harness.bisect.subject import Subject
    from harness.phases import Phases


def judge_tree(tree: Path, subject: Subject, root: Path, phases: Phases) -> Sight:
    """Build what is checked out in a tree and run the subject on it once.

    Args:
        tree: the tree.
        subject: what to run.
        root: where its results go.
        phases: told what goes on.

    Raises:
        LabBroken: the machine or the lab is at fault.
        UserError: the request is wrong.
    """
    fragments = own_fragments()
    phases.begin(f"building {tree}")
    try:
        built = build_kernel(tree, fragments, output_of(tree, fragments))
    except BuildFailed as error:
        return Sight(None, "skip", f"does not build: {'; '.join(error.errors)}")
    except UserError:
        raise
    except LabError as error:
        raise LabBroken(f"the lab is at fault, not the kernel: {error}") from error
    finally:
        phases.end()
    return subject.ask(f"path:{built.image}", root)


@dataclass(frozen=True)
class Git:
    """A work tree.

    Attributes:
        directory: where.
    """

    directory: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run git, whatever its status.

        Raises:
            ToolMissing: there is no git.
        """
        try:
            return subprocess.run(
                ["git", "-C", str(self.directory), *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise ToolMissing("there is no git on this machine", remedy="install git") from error

    def must(self, *arguments: str) -> str:
        """Run git and return its output.

        Raises:
            UserError: git refuses.
        """
        ran = self.run(*arguments)
        if ran.returncode:
            said = (ran.stderr or ran.stdout).strip()
            raise UserError(f"`git {' '.join(arguments)}` in {self.directory} failed: {said}")
        return ran.stdout.strip()

    def commit(self, rev: str) -> str:
        """Return the commit that a revision names.

        Raises:
            UserError: it names none.
        """
        ran = self.run("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}")
        if ran.returncode:
            raise UserError(
                f"{self.directory} has no commit `{rev}`", remedy="`git fetch --tags` brings tags"
            )
        return ran.stdout.strip()

    def has(self, rev: str) -> bool:
        """Say whether a revision names a commit."""
        return not self.run("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}").returncode

    def precedes(self, old: str, new: str) -> bool:
        """Say whether a commit is an ancestor of another."""
        return not self.run("merge-base", "--is-ancestor", old, new).returncode

    def describe(self, commit: str) -> str:
        """Return a commit for people: its short name and its subject."""
        return self.must("log", "-1", "--format=%h (%s)", commit)


def top_of(directory: Path) -> Git:
    """Return the kernel work tree that holds a directory.

    Raises:
        UserError: none does, or it is no kernel's.
    """
    top = Git(directory).run("rev-parse", "--show-toplevel")
    if top.returncode:
        raise UserError(
            f"{directory} is in no git work tree", remedy="give the directory of a kernel's clone"
        )
    git = Git(Path(top.stdout.strip()))
    if not (git.directory / "kernel/bpf/cpumap.c").exists():
        raise KernelNotFound(f"{git.directory} is no kernel tree: no kernel/bpf/cpumap.c")
    return git


def open_tree(directory: Path) -> Git:
    """Return the kernel work tree that holds a directory, to check other commits out in it.

    Raises:
        UserError: none does, or something in it is changed.
    """
    git = top_of(directory)
    changed = git.must("status", "--porcelain", "--untracked-files=no")
    if changed:
        raise UserError(
            f"files in {git.directory} are changed: {changed.splitlines()[0].strip()}, ...",
            remedy="commit or stash them: git bisect checks other commits out",
        )
    return git
