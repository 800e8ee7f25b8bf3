"""Work in a process of its own: its answer, its silence, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from harness.apart import ask_apart
from harness.patience import wait_until
from harness.tests.fakes import LATE_S, ends

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

WORK = """\
import os, time
from pathlib import Path
from harness.apart import answer_apart

def answer(asked):
    print("hello")
    if "sleep" in asked:
        try:
            Path(asked["sleep"]).write_text(str(os.getpid()))
            time.sleep(1000)
        except KeyboardInterrupt:
            Path(asked["sleep"]).write_text("told to end")
            raise
    return {"twice": 2 * asked["number"]} if "number" in asked else None

answer_apart(answer)
"""
ASKING = """\
import sys
from harness.apart import ask_apart

with open(sys.argv[1] + ".said", "wb") as said:
    ask_apart("work", {"sleep": sys.argv[1]}, said)
"""


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work.py").write_text(WORK)
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{path}" if path else str(tmp_path))


def began(state: Path) -> bool:
    return state.exists() and state.read_text() != ""


def ask(tmp_path: Path, request: dict[str, Any], timeout_s: float = LATE_S) -> Any:
    with (tmp_path / "said").open("wb") as said:
        return ask_apart("work", request, said, timeout_s=timeout_s)


def test_it_answers_and_what_it_says_is_kept(tmp_path: Path) -> None:
    assert ask(tmp_path, {"number": 21}) == {"twice": 42}
    assert (tmp_path / "said").read_text() == "hello\n"


@pytest.mark.parametrize("request_", [{}, {"number": None}], ids=["silent", "broken"])
def test_it_need_not_answer(request_: dict[str, Any], tmp_path: Path) -> None:
    assert ask(tmp_path, request_) is None
    assert ("TypeError" in (tmp_path / "said").read_text()) == bool(request_)


def test_it_may_be_late(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        ask(tmp_path, {"sleep": str(tmp_path / "state")}, timeout_s=0.1)


def test_it_is_told_to_end_when_nobody_waits_any_more(tmp_path: Path) -> None:
    state = tmp_path / "state"

    def interrupt() -> None:
        wait_until(lambda: began(state), LATE_S)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, {"sleep": str(state)})
    assert state.read_text() == "told to end"


def test_it_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    state = tmp_path / "state"
    asking = subprocess.Popen([sys.executable, "-c", ASKING, str(state)])
    try:
        assert wait_until(lambda: began(state), LATE_S)
    finally:
        asking.kill()
        asking.wait()
    assert ends(int(state.read_text()))
