from __future__ import annotations

import pytest

from harness.model import gates
from harness.model.gates import Gate
from harness.paths import REPO

TABLE = {name: gate for name, gate in vars(gates).items() if isinstance(gate, Gate)}


def test_a_gate_opens_with_its_version_and_in_the_series_that_took_it() -> None:
    gate = Gate("", (6, 5), "", "", ((6, 1, 45), (6, 4, 10)))
    held = [(6, 1, 45), (6, 1, 192), (6, 4, 10), (6, 5, 0), (7, 0, 0)]
    not_held = [(5, 10, 262), (6, 1, 44), (6, 2, 16), (6, 3, 13), (6, 4, 9)]
    assert [kernel for kernel in held if not gate.holds(kernel)] == []
    assert [kernel for kernel in not_held if gate.holds(kernel)] == []


@pytest.mark.parametrize("name", TABLE)
def test_every_gate_says_where_it_comes_from(name: str) -> None:
    gate = TABLE[name]
    assert gate.what
    assert gate.source
    assert gate.evidence.startswith(("booted: ", "read: "))
    assert all(fix < gate.since for fix in gate.backports)


def test_every_gate_is_asked() -> None:
    places = [*(REPO / "harness").rglob("*.py"), *(REPO / "cases").glob("*.py")]
    texts = [path.read_text() for path in places if path.name != "gates.py"]
    assert [name for name in TABLE if not any(name in text for text in texts)] == []
