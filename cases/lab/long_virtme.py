"""virtme-ng guests that do not come up, or are cut off by Ctrl-C.

Each takes a boot of up to half a minute: pytest collects this file only if it is named.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from lab_tools import LATE_S, wait_until
from test_launchers import kernel_of

from harness.errors import BootFailed
from harness.judge import judge_error
from harness.lab import Lab
from harness.machine.topology import Topology
from harness.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from lab_tools import Cache

HARNESS = """
import sys
from harness.lab import Lab
from harness.machine.topology import Topology
with Lab().open(sys.argv[1], Topology(cpus=2, memory_mib=384, launcher="virtme-ng")):
    print("up", flush=True)
    sys.stdin.read()
"""


def test_a_kernel_that_panics(a_kernel: str, cache: Cache) -> None:
    topology = Topology(launcher="virtme-ng", append="rdinit=/nope root=/dev/nope")
    with pytest.raises(BootFailed) as caught:
        Lab().open(kernel_of(a_kernel), topology)
    error = caught.value
    assert error.phase == "kernel"
    assert error.crashed
    told = "Kernel panic - not syncing: VFS: Unable to mount root fs on"
    assert f"The kernel said: {told}" in error.message
    assert told in error.console
    assert error.message.split("\n")[-1] in error.console
    assert "what was added to its command line" in error.remedy
    assert judge_error(error, []).verdict is Verdict.CRASH
    assert cache.clean()
    assert cache.users() == []


@pytest.mark.parametrize("up", [False, True])
def test_ctrl_c_leaves_nothing(a_kernel: str, cache: Cache, tmp_path: Path, up: bool) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", HARNESS, kernel_of(a_kernel)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert other.stdout is not None
    if up:
        assert other.stdout.readline() == "up\n"
    else:
        wait_until(lambda: any("Linux version" in text for text in cache.consoles()))
    os.killpg(other.pid, signal.SIGINT)  # as a terminal does
    assert "KeyboardInterrupt" in other.communicate(timeout=LATE_S)[1]
    assert cache.users() == []
    assert cache.clean()
    assert list(temporary.iterdir()) == []
