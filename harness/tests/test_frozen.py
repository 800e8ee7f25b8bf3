"""What is kept of a failed run's guest, read: also by whom it is not for any more."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import harness.frozen
from harness.cli import cpumap_lab
from harness.errors import KernelNotFound, LabError, QemuFailed, ToolMissing, UserError
from harness.frozen import find_results, read_frozen, resume
from harness.images import Initramfs
from harness.machine.command import hardware
from harness.machine.topology import Accel, Topology

SMALL = Topology(cpus=2, memory_mib=256)
SAID: dict[str, Any] = {
    "format": 1,
    "kernel": "debian:7.3",
    "sha256": "ab" * 32,
    "topology": asdict(SMALL),
    "qemu": "10.0.2",
    "accelerator": "tcg",
    "hardware": hardware(SMALL, "qemu64"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache/results").mkdir(parents=True)
    return tmp_path / "cache"


@pytest.fixture
def run(cache: Path) -> Path:
    """The results of a failed run."""
    return keep(cache / "results/run")


def keep(directory: Path, without: str = "", **said: object) -> Path:
    directory.mkdir(exist_ok=True)
    told = {key: value for key, value in (SAID | said).items() if key != without}
    (directory / "guest.json").write_text(json.dumps(told))
    (directory / "guest.state.gz").write_bytes(b"state")
    return directory


@dataclass
class Lab:
    """What is asked of a lab to resume a guest."""

    version: tuple[int, int, int] = (10, 0, 2)
    sha256: str = "ab" * 32
    accelerator: str = "tcg"
    no_kernel: Exception | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def qemu(self) -> Any:
        return SimpleNamespace(version=self.version)

    def kernel(self, spec: str) -> Any:
        self.asked.append(spec)
        if self.no_kernel:
            raise self.no_kernel
        return SimpleNamespace(sha256=self.sha256, spec=spec)

    def recipe(self, spec: str, topology: Topology) -> Any:
        accel = Accel(self.accelerator, "multi", "so")
        initramfs = Initramfs(Path("x"), "cd" * 32)
        return SimpleNamespace(
            accel=accel, kernel=self.kernel(spec), initramfs=initramfs, topology=topology
        )


@pytest.mark.parametrize("how", ["directory", "file", "name"])
def test_a_run_is_found_by(run: Path, how: str) -> None:
    named = {"directory": run, "file": run / "run.json", "name": Path("run")}[how]
    (run / "run.json").touch()
    assert find_results(named) == run


def test_a_run_is_read(run: Path) -> None:
    frozen = read_frozen(run)
    assert (frozen.kernel, frozen.topology, frozen.qemu) == ("debian:7.3", SMALL, "10.0.2")


def test_a_run_kept_before_ssh_and_formats(cache: Path) -> None:
    topology = {key: value for key, value in asdict(SMALL).items() if key != "ssh"}
    run = keep(cache / "results/old", without="format", topology=topology)
    assert read_frozen(run).topology == SMALL


def test_a_guest_is_resumed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thawed: list[Any] = []
    monkeypatch.setattr(harness.frozen, "thaw", lambda *asked: thawed.append(asked))
    resume(read_frozen(run), Lab())  # type: ignore[arg-type]
    ((recipe, state),) = thawed
    assert (recipe.topology, state) == (SMALL, run / "guest.state.gz")


def test_a_guest_that_had_ended_is_none_to_wait_for(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = keep(cache / "results/panic", ended="it has restarted"), list[str]()
    monkeypatch.setattr(harness.frozen, "thaw", lambda *_: SimpleNamespace(end=told.append))
    resume(read_frozen(run), Lab())  # type: ignore[arg-type]
    assert told == ["it has restarted"]


@pytest.mark.parametrize(
    ("lab", "words"),
    [
        (Lab(no_kernel=KernelNotFound("no such")), "kernel, debian:7.3, is gone: no such"),
        (Lab(sha256="cd" * 32), "was abababababab and is cdcdcdcdcdcd now"),
        (Lab(version=(9, 0, 0)), "frozen by QEMU 10.0.2, and this is 9.0.0"),
        (Lab(accelerator="kvm"), "ran under tcg, and this machine has kvm: so"),
    ],
)
def test_a_guest_that_cannot_run_here(run: Path, lab: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resume(read_frozen(run), lab)


def test_a_guest_of_another_hardware(cache: Path) -> None:
    run = keep(cache / "results/other", hardware=["-m", "1G"])
    with pytest.raises(UserError, match="another hardware"):
        resume(read_frozen(run), Lab())  # type: ignore[arg-type]


def test_the_qemu_that_froze_it_is_looked_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpacked(root: str) -> Any:
        if root == "broken":
            raise ToolMissing("broken")
        return SimpleNamespace(version=(10, 0, 2), root=root)

    monkeypatch.setattr(harness.frozen, "fetched", lambda: ["broken", "older"])
    monkeypatch.setattr(harness.frozen, "unpacked_qemu", unpacked)
    monkeypatch.setattr(harness.frozen, "thaw", lambda recipe, _: recipe)
    recipe: Any = resume(read_frozen(run), Lab(version=(11, 0, 0)))  # type: ignore[arg-type]
    assert recipe.qemu.root == "older"


def test_a_state_that_is_damaged(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def thaw(*_: object) -> None:
        raise QemuFailed("no")

    monkeypatch.setattr(harness.frozen, "thaw", thaw)
    with pytest.raises(LabError, match=r"guest\.state\.gz cannot be resumed: no"):
        resume(read_frozen(run), Lab())  # type: ignore[arg-type]


# As a person sees it


def refusal(*arguments: object) -> str:
    """Return what `cpumap-lab shell` says that refuses its arguments."""
    done = CliRunner().invoke(cpumap_lab, ["shell", *map(str, arguments)])
    assert done.exit_code == 2, done.output
    assert done.output.startswith("error: ")
    assert "remedy: " in done.output
    return done.output


def test_no_such_run() -> None:
    assert "there is no run nowhere" in refusal("--failed", "nowhere")


def test_a_run_without_a_guest(run: Path) -> None:
    (run / "guest.state.gz").unlink()
    assert "no guest was kept of the run" in refusal("--failed", run)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": "1"}',
        '{"format": 2}',
        "[" * 100000,
        json.dumps(SAID | {"topology": {"pcs": 3}}),
        json.dumps(SAID | {"topology": {"cpus": "3"}}),
        json.dumps(SAID | {"qemu": 10}),
        json.dumps(SAID | {"hardware": 10}),
        json.dumps(SAID | {"ended": True}),
        json.dumps({key: SAID[key] for key in SAID if key != "kernel"}),
    ],
)
def test_a_guest_that_is_none(run: Path, content: str) -> None:
    (run / "guest.json").write_text(content)
    expected = "by a newer cpumap-lab (format 2, not 1)" if "2}" in content else "is damaged"
    assert expected in refusal("--failed", run)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "of a run that failed, or fresh"),
        (("--failed", "x", "--kernel", "debian:7.3"), "of a run that failed, or fresh"),
        (("--failed", "x", "--cpus", "3"), "brings its own guest"),
        (("--kernel", "debian:7.3", "--memory", "1"), "--memory"),
    ],
)
def test_a_request_that_is_none(arguments: tuple[str, ...], words: str) -> None:
    done = CliRunner().invoke(cpumap_lab, ["shell", *arguments])
    assert done.exit_code == 2
    assert words in done.output
