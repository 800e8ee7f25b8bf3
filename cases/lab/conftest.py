"""What the tests of the lab itself need: a cache of their own, and eyes on every QEMU."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from lab_tools import Cache, look, processes, wait_until
from pytest_runs import CASES, Session, outcome

import harness.machine.machine
from harness.inventory import unwatch_pools, watch_pools
from harness.lab import Lab
from harness.machine.topology import Topology
from harness.paths import cache_dir
from harness.pytest_plugin import DEFAULT_KERNEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.guest import Guest
    from harness.target.lab import TargetLab
    from harness.target.login import Login

HERE = Path(__file__).resolve().parent
SHARED = ("kernels", "qemu", "accel", "apt", "toolbox")
"""What a cache of one's own takes from the common one: it is slow to come by, and not damaged."""


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Collect these only if they are named: who asks for cases wants to know of a kernel."""
    started_in = config.invocation_params.dir
    named = [(started_in / argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True


@pytest.fixture(scope="session")
def a_kernel(pytestconfig: pytest.Config) -> str:
    """One kernel, where it does not matter which."""
    specs: list[str] = pytestconfig.getoption("--kernel")
    return specs[0] if specs else DEFAULT_KERNEL


def use(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """Make a directory the cache, with the kernels of the common one; nothing may run from it."""
    root.mkdir(exist_ok=True)
    for name in SHARED:
        if not (root / name).exists():
            (root / name).symlink_to(cache_dir(name))
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(root))
    cache = Cache(root)
    yield cache
    assert cache.qemus() == []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """An empty cache of one's own."""
    yield from use(tmp_path / "cache", monkeypatch)


@pytest.fixture(scope="module")
def module_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that a module's tests use one after the other."""
    return tmp_path_factory.mktemp("module") / "cache"


@pytest.fixture
def module_cache(module_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """A cache that a module's tests have to themselves, with what they left in it."""
    yield from use(module_root, monkeypatch)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a way to bring the deadlines of some phases of a boot forward."""

    def hurry(**seconds: float) -> None:
        phases = tuple(
            (phase, pattern, seconds.get(phase, deadline))
            for phase, pattern, deadline in harness.machine.machine.PHASES
        )
        monkeypatch.setattr(harness.machine.machine, "PHASES", phases)

    return hurry


@pytest.fixture(scope="module")
def machine(a_kernel: str) -> Iterator[Guest]:
    """A machine with an sshd, for a module's tests."""
    with Lab().open(a_kernel, Topology(ssh=True, nics=0)) as guest:
        yield guest


@pytest.fixture(scope="module")
def login(machine: Guest) -> Login:
    """The way into that machine."""
    from harness.sshd import open_door  # noqa: PLC0415 - paramiko takes a while to import
    from harness.target.address import Address  # noqa: PLC0415
    from harness.target.login import Login  # noqa: PLC0415

    door = open_door(machine.own)
    return Login.of(Address.parse("ssh://guest"), config=door.directory / "ssh_config")


@pytest.fixture
def left(machine: Guest) -> Iterator[Callable[[], list[str]]]:
    """What is otherwise on the machine than it was before the test."""
    machine.tracer.stop()  # that of the machine's own, all the time
    watch_pools(machine.calls)
    # busybox's timeout(1) watches itself from a child, which sees its end a second late
    wait_until(lambda: not processes(machine, "timeout"))
    before, files = look(machine)

    def left() -> list[str]:
        now, there = look(machine)
        return [*before.differences(now), *(set(there) - set(files))]

    yield left
    unwatch_pools(machine.calls)


@pytest.fixture
def target(login: Login) -> Iterator[TargetLab]:
    """That machine as a target."""
    from harness.target.lab import TargetLab  # noqa: PLC0415 - as above

    with TargetLab(login.address, config=Path(login.keys[0]).parent / "ssh_config") as lab:
        yield lab


@pytest.fixture(scope="session")
def run_pytest(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Session]:
    """Return a way to run pytest on some cases, far from this suite's own configuration."""

    def run(cases: str, *options: str) -> Session:
        directory: Path = tmp_path_factory.mktemp("cases")
        (directory / "test_them.py").write_text(cases)
        report = directory / "report.xml"
        whole = [sys.executable, "-m", "pytest", f"--rootdir={directory}", f"--junitxml={report}"]
        whole += ["-p", "no:cacheprovider", f"--artifacts={directory / 'kept'}"]
        whole += [f"--page={directory / 'page.html'}", *options]
        whole += [str(directory)]
        done = subprocess.run(whole, capture_output=True, text=True, check=False, cwd=directory)
        cases_run = ET.parse(report).iter("testcase") if report.exists() else ()
        outcomes = {case.get("name", ""): outcome(case) for case in cases_run}
        return Session(done.returncode, done.stdout + done.stderr, outcomes)

    return run


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config, run_pytest: Callable[..., Session]) -> Session:
    """One run of all of them, on one kernel."""
    spec = (pytestconfig.getoption("--kernel") or [None])[0]
    done = run_pytest(CASES, *(["--kernel", spec] if spec else []))
    assert done.outcomes, done.output
    return Session(
        done.status,
        done.output,
        {name.partition("[")[0].removeprefix("test_"): o for name, o in done.outcomes.items()},
    )
