"""Building kernels: real make and real vng on a tree that is no kernel but has its face."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from harness.errors import CacheError, KernelNotFound, LabError, ToolMissing, UserError
from harness.kernels import toolchain
from harness.kernels.build import BuildFailed, build_kernel, failure_of, output_of
from harness.kernels.kconfig import (
    FRAGMENTS,
    Fragment,
    debug_names,
    options_of,
    own_fragments,
    read_fragment,
)
from harness.patience import wait_until
from harness.tests.fakes import LATE_S, ends

if TYPE_CHECKING:
    from pathlib import Path

MAKEFILE = """\
allnoconfig:
	@echo "# made" | cat - $(KCONFIG_ALLCONFIG) | grep -v REFUSED > $(KCONFIG_CONFIG)
bzImage:
	@mkdir -p $(O)/arch/x86/boot $(O)/include/config
	@echo "  CC      kernel/bpf/cpumap.o"
	@echo "  CC [M]  other.o"
	@echo "7.9.0$(LOCALVERSION)" > $(O)/include/config/kernel.release
	@{body}
	@echo "$(PROFILED) $$KBUILD_BUILD_TIMESTAMP" > $(O)/arch/x86/boot/bzImage
"""
FRAGMENT = Fragment(
    "ours", "#: make PROFILED=y\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_REFUSED=y"
)


def tree(where: Path, body: str = "true") -> Path:
    """A source tree; `body` is what its build does."""
    (where / "kernel/bpf").mkdir(parents=True)
    (where / "kernel/bpf/cpumap.c").touch()
    (where / "Kbuild").touch()
    (where / "Makefile").write_text(MAKEFILE.replace("{body}", body))
    return where


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that only test need not have what builds kernels."""
    monkeypatch.setattr("harness.kernels.build.check_toolchain", lambda: None)


def test_a_kernel_is_built_out_of_tree(tmp_path: Path) -> None:
    source = tree(tmp_path / "tree")
    before = sorted(source.rglob("*"))
    steps: list[tuple[str, int, int]] = []
    built = build_kernel(
        source, [FRAGMENT], tmp_path / "out", jobs=1, progress=lambda *told: steps.append(told)
    )
    assert built.image.read_text() == "y Thu Jan  1 00:00:00 UTC 1970\n"
    assert options_of(built.config.read_text()) == {"A": "y", "B": "n"}
    assert built.refused == ("REFUSED=y",)
    assert built.release == "7.9.0-virtme"
    assert steps == [("building tree", 1, 0), ("building tree", 2, 0)]
    assert sorted(source.rglob("*")) == before


def test_an_unchanged_configuration_is_not_touched(tmp_path: Path) -> None:
    source = tree(tmp_path / "tree")
    config = build_kernel(source, [FRAGMENT], tmp_path / "out").config
    os.utime(config, (1, 1))
    build_kernel(source, [FRAGMENT], tmp_path / "out")
    assert config.stat().st_mtime == 1
    build_kernel(source, [Fragment("other", "CONFIG_A=m\n")], tmp_path / "out")
    assert config.stat().st_mtime > 1


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            "kernel/bpf/cpumap.c:12:2: error: expected ';' before '}' token",
            BuildFailed,
            "expected ';'",
        ),
        ("ld: vmlinux.o: undefined reference to `gro_init'", BuildFailed, "gro_init"),
        ("/bin/sh: 1: flex: not found", ToolMissing, "takes flex.*remedy.*flex"),
        ("/bin/sh: 1: scripts/gone.sh: not found", BuildFailed, r"scripts/gone\.sh"),
        ("make[2]: bison: No such file or directory", ToolMissing, "takes bison"),
        ("a.h:1:10: fatal error: gelf.h: No such file or directory", ToolMissing, "libelf-dev"),
        ("a.c:1:10: fatal error: net/new.h: No such file or directory", BuildFailed, "new.h"),
        ("/tmp/ccX.s: No space left on device", CacheError, "disk filled"),
        ("gcc: fatal error: Killed signal terminated program cc1", LabError, "want of memory"),
        ("during RTL pass: internal compiler error: in x, at y.c:1", LabError, "compiler broke"),
        ("*** Compiler is too old.", ToolMissing, "cannot build"),
    ],
)
def test_whose_fault_a_failure_is(
    tmp_path: Path, said: str, kind: type[LabError], message: str
) -> None:
    log = tmp_path / "build.log"
    log.write_text(f"  CC      kernel/bpf/cpumap.o\n{said}\nmake: *** [Makefile:9: all] Error 2\n")
    error = failure_of(tmp_path / "tree", log)
    assert type(error) is kind
    assert re.search(message, str(error), re.DOTALL)


def test_a_tree_that_does_not_build_is_told_from_a_machine_that_cannot(tmp_path: Path) -> None:
    source = tree(tmp_path / "tree", "echo 'cpumap.c:12:2: error: no such thing' >&2; exit 2")
    with pytest.raises(BuildFailed) as raised:
        build_kernel(source, [FRAGMENT], tmp_path / "out")
    assert raised.value.errors[0] == "cpumap.c:12:2: error: no such thing"
    assert "CC      kernel/bpf/cpumap.o" in raised.value.log.read_text()


def test_a_broken_vng_is_not_the_trees_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vng = tmp_path / "vng"
    vng.write_text("#!/bin/sh\necho 'Traceback (most recent call last):' >&2; exit 1\n")
    vng.chmod(0o755)
    monkeypatch.setattr("harness.kernels.build.find_vng", lambda: vng)
    with pytest.raises(LabError, match="virtme-ng failed") as raised:
        build_kernel(tree(tmp_path / "tree"), [FRAGMENT], tmp_path / "out")
    assert type(raised.value) is LabError
    monkeypatch.setattr("harness.kernels.build.find_vng", lambda: None)
    with pytest.raises(ToolMissing, match="no virtme-ng"):
        build_kernel(tree(tmp_path / "other"), [FRAGMENT], tmp_path / "out")


def test_no_tree_and_a_tree_that_was_built_in_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelNotFound, match="no kernel source tree"):
        build_kernel(tmp_path, [FRAGMENT], tmp_path / "out")
    source = tree(tmp_path / "tree")
    (source / ".config").touch()
    with pytest.raises(KernelNotFound, match="mrproper"):
        build_kernel(source, [FRAGMENT], tmp_path / "out")


@pytest.mark.parametrize(
    ("number", "recipe"),
    [
        (signal.SIGINT, "exec sleep 600"),
        (signal.SIGINT, "trap '' TERM; while :; do sleep 1; done"),
        (signal.SIGKILL, "exec sleep 600"),
    ],
)
def test_an_interrupted_build_leaves_nothing_running(
    tmp_path: Path, number: signal.Signals, recipe: str
) -> None:
    source = tree(tmp_path / "tree", f"echo $$$$ > {tmp_path}/pid; {recipe}")
    code = (
        "import harness.kernels.build as b; from harness.kernels.kconfig import Fragment;"
        "from pathlib import Path; b.check_toolchain = lambda: None; b.STOP_S = 1;"
        f"b.build_kernel(Path({str(source)!r}), [Fragment('a', 'CONFIG_A=y')],"
        f" Path({str(tmp_path / 'out')!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as lab:
        pid = tmp_path / "pid"
        assert wait_until(lambda: pid.exists() and pid.read_text(), LATE_S)
        lab.send_signal(number)
        told = lab.communicate()[1]
    assert (b"KeyboardInterrupt" in told) == (number == signal.SIGINT)
    assert ends(int(pid.read_text()))


def test_what_is_missing_is_named_with_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda tool: None if tool in ("flex", "ld") else tool)
    monkeypatch.setattr(toolchain, "_has_header", lambda name: name != "gelf.h")
    with pytest.raises(ToolMissing, match=r"lacks ld, flex, gelf\.h") as raised:
        toolchain.check_toolchain()
    assert raised.value.remedy.endswith("apt-get install binutils flex libelf-dev")


def test_each_tree_and_set_of_fragments_has_a_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(tmp_path / "cache"))
    one, other = own_fragments(), own_fragments(("gcov", "failslab"))
    places = {output_of(tmp_path / name, parts) for name in "ab" for parts in (one, other)}
    assert len(places) == 4
    assert other == own_fragments(("failslab", "gcov", "gcov"))
    assert all(place.name.startswith(("a-minimal", "b-minimal")) for place in places)


def test_our_fragments_can_be_read() -> None:
    assert {"kasan", "lockdep", "kmemleak", "failslab", "gcov"} <= set(debug_names())
    for path in FRAGMENTS.glob("*.config"):
        fragment = read_fragment(path)
        settings = [line for line in fragment.text.splitlines() if "CONFIG_" in line]
        assert len(settings) == len(fragment.options), f"{path.name} sets an option twice"
    assert own_fragments(("gcov",))[1].variables == ("GCOV_PROFILE_cpumap.o=y",)
    with pytest.raises(UserError, match=r"called kasam(.|\n)*kasan"):
        own_fragments(("kasam",))


def test_what_is_no_fragment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("KASAN=y\n")
    with pytest.raises(UserError, match="is no configuration fragment"):
        read_fragment(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="cannot read"):
        read_fragment(tmp_path / "absent")
