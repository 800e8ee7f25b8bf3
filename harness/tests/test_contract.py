from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from click.testing import CliRunner

from harness import cli
from harness.contract.claims import Claim, claims_of, options_wanted, why_not
from harness.contract.functions import FUNCTIONS
from harness.contract.page import page_of, show_kernels
from harness.contract.table import CASES, collect_cases, matrix_kernels, read_contract, table_of
from harness.errors import UserError
from harness.model import gates
from harness.model.gates import GRO, STACK_KNOWS_CPUMAP_GENERIC, Gate
from harness.signs import SIGNS

if TYPE_CHECKING:
    from harness.known_issues import KnownIssue

OLD, NEW = (5, 10, 262), (7, 3, 4)


def item(*marks: pytest.MarkDecorator, own: tuple[pytest.MarkDecorator, ...] = ()) -> Any:
    """Return what a collected case looks like."""
    every = [mark.mark for mark in (*own, *marks)][::-1]  # the nearest first
    return SimpleNamespace(
        iter_markers=lambda name: (mark for mark in every if mark.name == name),
        callspec=SimpleNamespace(marks=[mark.mark for mark in own]),
    )


def proves(function: str = "bq_enqueue", behaviour: str = "works", **gates: Gate) -> Any:
    return pytest.mark.proves(function, behaviour, **gates)


def test_a_claim_holds_between_its_gates() -> None:
    always, late = Claim("bq_enqueue", "x"), Claim("bq_enqueue", "x", since=GRO)
    early = Claim("bq_enqueue", "x", until=GRO)
    assert [c.holds(OLD) for c in (always, late, early)] == [True, False, True]
    assert [c.holds(NEW) for c in (always, late, early)] == [True, True, False]


def test_a_claim_holds_where_its_function_is() -> None:
    generic, stop = Claim("cpu_map_generic_redirect", "x"), Claim("cpu_map_kthread_stop", "ends")
    assert [generic.holds(OLD), generic.holds(NEW)] == [False, True]
    assert [stop.holds(OLD), stop.holds(NEW)] == [True, False]
    assert generic.why_not(OLD) == f"{STACK_KNOWS_CPUMAP_GENERIC.what}: since 5.15"
    assert stop.why_not(NEW) == "ends: until 6.6"


def test_a_claim_on_no_function_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"bq_enque is no .*; did you mean bq_enqueue\?"):
        Claim("bq_enque", "works")


def test_a_case_runs_where_any_of_its_claims_holds() -> None:
    both = item(proves(since=GRO), proves(behaviour="worked", until=GRO))
    assert (why_not(both, OLD), why_not(both, NEW)) == (None, None)
    late = item(proves(since=GRO), proves("cpu_map_generic_redirect"))
    assert (why_not(late, OLD), why_not(late, NEW)) == (f"{GRO.what}: since 6.15", None)
    assert why_not(item(), OLD) is None
    assert why_not(item(pytest.mark.machine(cpus=2)), OLD) is None


def test_a_variant_runs_where_all_claims_of_its_own_hold() -> None:
    generic = proves("cpu_map_generic_redirect")
    assert why_not(item(proves(), own=(proves(behaviour="more"), generic)), OLD)
    assert why_not(item(proves(), own=(proves(behaviour="more"), generic)), NEW) is None
    assert why_not(item(proves(since=GRO), own=(proves(),)), OLD) is None


def test_the_same_behaviour_of_two_cases_is_one_row() -> None:
    flush, enqueue = Claim("__cpu_map_flush", "wakes"), Claim("bq_enqueue", "x", since=GRO)
    rows = table_of([("a", flush), ("b", enqueue), ("c", flush), ("a", flush)])
    assert [(row.function, row.cases) for row in rows] == [
        ("bq_enqueue", ("b",)),  # as in the file
        ("__cpu_map_flush", ("a", "c")),
    ]
    assert [(row.since, row.until) for row in rows] == [("6.15", None), ("5.10", None)]
    assert rows[0].kernels == ("6.16", "6.18", "7.2", "7.3", "7.3-rt")
    assert rows[1].kernels == tuple(matrix_kernels())


def test_a_row_ends_where_its_function_does() -> None:
    (row,) = table_of([("a", Claim("cpu_map_init", "x"))])
    assert (row.since, row.until, row.kernels) == ("5.10", "6.11", ("5.10", "6.1"))


def test_a_known_issue_takes_kernels_from_the_rows_that_only_it_proves() -> None:
    issue = SimpleNamespace(concerns=lambda case, kernel: case == "bad" and kernel < (6, 12))
    claims = [("bad", Claim("bq_enqueue", "x")), ("bad", Claim("bq_enqueue", "y"))]
    both, only = table_of([*claims, ("good", claims[0][1])], [cast("KnownIssue", issue)])
    assert (both.kernels, both.known) == (tuple(matrix_kernels()), ())
    assert (only.kernels[0], only.known) == ("6.12", ("5.10", "6.1"))
    assert show_kernels(only) == "6.12 on; known issue: 5.10, 6.1"


def test_backports_count() -> None:
    (row,) = table_of([("a", Claim("bq_enqueue", "x", since=gates.UPDATE_WAITS))])
    assert row.kernels[:2] == ("6.1", "6.12")


def test_one_sentence_has_one_gate() -> None:
    with pytest.raises(UserError, match="bq_enqueue: 'works' has marks of different gates"):
        table_of([("a", Claim("bq_enqueue", "works")), ("b", Claim("bq_enqueue", "works", GRO))])


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    result = CliRunner().invoke(cli.cpumap_lab, ["contract", "--json"])
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_every_row_has_a_case_and_a_kernel(told: list[dict[str, Any]]) -> None:
    for row in told:
        assert row["kernels"] or row["known"] or row["options"], row
        assert row["cases"]
        for case in row["cases"]:
            path, _, name = case.partition("::")
            assert f"def {name}(" in (CASES.parent / path).read_text()


def test_every_function_has_rows(told: list[dict[str, Any]]) -> None:
    assert {row["function"] for row in told} == set(FUNCTIONS)


def test_every_case_says_what_it_proves() -> None:
    assert [item.nodeid for item in collect_cases() if not claims_of(item)] == []


def test_every_gate_is_in_the_table_of_gates() -> None:
    known = [gate for gate in vars(gates).values() if isinstance(gate, Gate)]
    for item in collect_cases():
        for claim in claims_of(item):
            assert all(gate in known for gate in (*claim.opening, *claim.closing)), item.nodeid


def test_a_kernel_can_be_asked_for_every_option_that_cases_want() -> None:
    wanted = {name for item in collect_cases() for name in options_wanted(item)}
    assert wanted == set(SIGNS)


def test_the_page_is_the_table() -> None:
    page = page_of(read_contract())
    assert (CASES / "CONTRACT.md").read_text() == page, (
        "made anew by: cpumap-lab contract --markdown > cases/CONTRACT.md"
    )


def test_people_get_a_table() -> None:
    result = CliRunner().invoke(cli.cpumap_lab, ["contract"])
    assert result.exit_code == 0
    assert "bq_enqueue" in result.stdout


def test_one_form_at_a_time() -> None:
    result = CliRunner().invoke(cli.cpumap_lab, ["contract", "--json", "--markdown"])
    assert (result.exit_code, result.stdout) == (2, "")


def test_what_only_debug_kernels_prove_is_claimed_of_no_other() -> None:
    claim = Claim("cpu_map_alloc", "without memory it is ENOMEM")
    (row,) = table_of([("a", claim), ("b", claim)], options={"a": ["FAILSLAB"], "b": ["FAILSLAB"]})
    assert (row.kernels, row.options) == ((), ("FAILSLAB",))
    assert show_kernels(row) == "built with FAILSLAB"
    (row,) = table_of([("a", claim), ("b", claim)], options={"a": ["FAILSLAB"]})
    assert (row.kernels, row.options) == (tuple(matrix_kernels()), ())


def test_preempt_rt_is_a_flavour() -> None:
    claim = Claim("bq_enqueue", "x")
    (row,) = table_of([("a", claim)], options={"a": ["PREEMPT_RT"]})
    assert (row.kernels, row.options) == (("7.3-rt",), ())
    (row,) = table_of([("a", claim), ("b", claim)], options={"a": ["PREEMPT_RT"]})
    assert row.kernels == tuple(matrix_kernels())
