"""`kernels fetch` survives being killed at any moment, and what it left is cleared away."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from harness.tests.fakes import FakeApt
from harness.tests.test_kernels import MONOLITH, SPLIT, add_monolith, add_split

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

EVERY = 13
"""Of the steps, how many are one kill apart: 1 to try all of them."""


def test_fetch_survives_being_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeApt(tmp_path / "fake")
    fake.install(monkeypatch)
    add_monolith(fake, MONOLITH, "6.1.192-2")
    add_split(fake, SPLIT, "7.3.4-1~bpo13+1")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "harness.tests.kills",
            tmp_path,
            "debian:6.1",
            "debian:7.3",
            f"{EVERY}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (whole, *kills) = map(json.loads, done.stdout.splitlines())
    assert {"subprocess.Popen", "os.mkdir", "os.rename", "open"} <= set(whole["steps"])
    assert len(kills) >= 10
    for kill in kills:
        assert kill["left"] == [], kill
        assert kill["odd"] == [], kill
