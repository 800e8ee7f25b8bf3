"""Known issues: the file, and every way in which a case of one may end."""

from __future__ import annotations

import ast
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import UserError
from harness.known_issues import FILE, KnownIssue, load_known_issues
from harness.paths import REPO
from harness.tests.fake_cases import CONFTEST

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["pytester"]

ISSUE = """\
- id: it-breaks
  title: it breaks
  case: test_it.py::test_it
  kernels: {from: "5.10", until: "6.1"}
  signature: assert \\d+ == 11
  evidence: seen
  link: none found
  expires: "2999-12-31"
"""


def load(tmp_path: Path, text: str) -> list[KnownIssue]:
    path = tmp_path / "issues.yaml"
    path.write_text(text)
    return load_known_issues(path)


def fault(tmp_path: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert caught.value.exit_status == 2
    return caught.value.message.removeprefix(f"{tmp_path / 'issues.yaml'}:")


def test_an_issue(tmp_path: Path) -> None:
    first, second = load(tmp_path, ISSUE + ISSUE.replace("it-breaks", "again"))
    assert first.issue.id == "it-breaks"
    assert first.place == f"{tmp_path / 'issues.yaml'}:1"
    assert second.place.endswith(":9")
    assert load(tmp_path, "[]") == []


@pytest.mark.parametrize(
    ("since", "until", "inside", "outside"),
    [
        ("5.10", None, [(5, 10, 0), (5, 10, 262), (7, 3, 4)], [(5, 9, 9)]),
        ("5.10", "6.1", [(5, 10, 1), (6, 0, 0), (6, 1, 192)], [(6, 2, 0), (5, 4, 1)]),
        ("6.1", "6.1.44", [(6, 1, 0), (6, 1, 44)], [(6, 1, 45), (6, 0, 9)]),
        ("6.1.40", "6.1", [(6, 1, 40), (6, 1, 99)], [(6, 1, 39), (6, 2, 0)]),
        ("5.10", "5.10", [(5, 10, 0), (5, 10, 262)], [(5, 11, 0)]),
    ],
)
def test_its_kernels(
    tmp_path: Path, since: str, until: str | None, inside: list[Any], outside: list[Any]
) -> None:
    kernels = f'{{from: "{since}"' + (f', until: "{until}"}}' if until else "}")
    (known,) = load(tmp_path, ISSUE.replace('{from: "5.10", until: "6.1"}', kernels))
    assert all(known.concerns("test_it.py::test_it", kernel) for kernel in inside)
    assert not any(known.concerns("test_it.py::test_it", kernel) for kernel in outside)


@pytest.mark.parametrize(
    ("written", "case", "concerned"),
    [
        ("test_it", "test_it", True),
        ("test_it", "test_it[native]", True),
        ("test_it[native]", "test_it[native]", True),
        ("test_it[native]", "test_it[generic]", False),
        ("test_it[native]", "test_it", False),
        ("test_it", "test_its", False),
        ("test_it", "test_other", False),
    ],
)
def test_its_cases(tmp_path: Path, written: str, case: str, concerned: bool) -> None:
    (known,) = load(tmp_path, ISSUE.replace("::test_it", f"::{written}"))
    assert known.concerns(f"test_it.py::{case}", (5, 10, 1)) is concerned


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("id: it-breaks", "id: It", "1:7: [0].id: found the text `It`; allowed: words in small"),
        ("title: it breaks", "titel: it", "2:3: [0].titel: unknown key; did you mean `title`?"),
        ("  case: test_it.py::test_it\n", "", "1:3: [0].case: missing; it is the case that shows"),
        ("test_it.py::test_it", "test_it", "3:9: [0].case: found the text `test_it`; allowed: a p"),
        ('"5.10"', "5.10", "found the number `5.10`; allowed: a series or a release in quotes"),
        ('"5.10"', '"5"', "4:19: [0].kernels.from: found the text `5`; allowed: a series"),
        ("from:", "form:", "4:13: [0].kernels.form: unknown key; did you mean `from`?"),
        ('"6.1"', '"5.9"', "4:12: [0].kernels: found a mapping; `until` 5.9 comes before `from`"),
        ("assert \\d+ == 11", "(", "5:14: [0].signature: found the text `(`; no regular expressio"),
        ("evidence: seen", "evidence:", "6:12: [0].evidence: found nothing; allowed: sentences"),
        ("none found", "nowhere", "7:9: [0].link: found the text `nowhere`; allowed: a URL, or `n"),
        ('"2999-12-31"', "2999-12-31", "8:12: [0].expires: `2999-12-31` reads as a date: quote"),
        ('"2999-12-31"', "soon", "8:12: [0].expires: found the text `soon`; a date in quotes"),
    ],
)
def test_what_is_wrong_with_it(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in ISSUE
    assert told in fault(tmp_path, ISSUE.replace(old, new))


def test_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    assert "1:1: found a mapping; known issues are a list; each has" in fault(tmp_path, "a: b")
    assert "1:1: the file is empty: known issues are a list" in fault(tmp_path, "")
    assert fault(tmp_path, ISSUE + ISSUE) == ("9:7: [1].id: `it-breaks` is taken already, by [0]")
    with pytest.raises(UserError, match="cannot read the list of known issues"):
        load_known_issues(tmp_path / "none")


def test_the_file_that_is_in_use() -> None:
    issues = load_known_issues(FILE)
    assert issues
    for known in issues:
        assert known.place.startswith("configs/known-issues.yaml:")
        path, _, function = known.issue.case.partition("[")[0].partition("::")
        tree = ast.parse((REPO / path).read_text())
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert function in functions, f"{known.place}: there is no case {known.issue.case}"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a way to run a case that shows the issue, and to see how it ends."""
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(pytester.path / "cache"))
    monkeypatch.setenv("CPUMAP_LAB_QEMU", "/nonexistent")
    pytester.makeconftest(CONFTEST)

    def run(body: str, *options: str, issues: str = ISSUE, kernel: str = "5.10.1") -> Any:
        case = textwrap.indent(textwrap.dedent(body), "    ")
        pytester.makepyfile(test_it=f"import pytest\n\ndef test_it(lab):\n{case}\n")
        path = pytester.path / "issues.yaml"
        path.write_text(issues)
        found = []

        class Look:
            def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                if report.when == "call":
                    found.append((dict(report.user_properties), str(report.longrepr or "")))

        args = ("--kernel", f"debian:{kernel}", "--known-issues", str(path), *options)
        result = pytester.inline_run(*args, plugins=[Look()])
        ((properties, told),) = found
        passed, skipped, failed = result.countoutcomes()
        outcome = {(1, 0, 0): "passed", (0, 1, 0): "skipped", (0, 0, 1): "failed"}
        kept = properties.pop("artifacts", None)
        assert kept == (f"kept/test_it[debian:{kernel}]" if failed else None)
        assert ("--kernel debian:" in str(properties.pop("repeat", ""))) == bool(failed)
        return outcome[passed, skipped, failed], properties, told

    return run


BREAKS = "assert 10 == 11"


def test_it_reproduces(run: Any) -> None:
    outcome, properties, _ = run(BREAKS)
    assert outcome == "skipped"  # so does pytest count what is expected to fail
    assert properties == {"verdict": "known", "known_issue": "it-breaks"}


def test_a_crash_reproduces(run: Any) -> None:
    issues = ISSUE.replace("assert \\d+ == 11", "protection fault.* at eth_type")
    oops = "lab.crash = 'general protection fault: 0000, at eth_type_trans+0x62'"
    assert run(oops, issues=issues)[1]["verdict"] == "known"
    assert run(f"{oops}\n{BREAKS}", issues=issues)[1]["verdict"] == "known"
    outcome, properties, told = run("lab.crash = 'divide error, at other'", issues=issues)
    assert (outcome, properties) == ("failed", {"verdict": "crash"})
    assert "oops: divide error" in told


def test_it_no_longer_reproduces(run: Any) -> None:
    outcome, properties, told = run("pass")
    assert (outcome, properties) == ("failed", {"verdict": "fail"})
    assert "known issue it-breaks no longer reproduces on 5.10.1: remove or narrow it in " in told
    assert told.endswith("issues.yaml:1")


@pytest.mark.parametrize("body", ["assert 10 == 12", "pytest.fail('11')", "raise ValueError"])
def test_another_failure(run: Any, body: str) -> None:
    outcome, properties, told = run(body)
    assert (outcome, properties) == ("failed", {"verdict": "fail"})
    assert "known issue" not in told
    assert body.split("(", maxsplit=1)[0] in told  # with its traceback


@pytest.mark.parametrize("body", ["pass", BREAKS])
@pytest.mark.parametrize("kernel", ["5.4.1", "6.2.0"])
def test_outside_its_kernels(run: Any, body: str, kernel: str) -> None:
    outcome, properties, _ = run(body, kernel=kernel)
    expected = ("passed", "pass") if body == "pass" else ("failed", "fail")
    assert (outcome, properties["verdict"]) == expected


def test_a_skip_is_no_news(run: Any) -> None:
    outcome, properties, _ = run("pytest.skip('since 6.1')")
    assert (outcome, properties) == ("skipped", {})


def test_what_the_lab_could_not_judge_is_not_known(run: Any) -> None:
    body = "from harness.errors import TrafficError\nraise TrafficError('assert 10 == 11')"
    outcome, properties, _ = run(body)
    assert (outcome, properties) == ("failed", {"verdict": "invalid"})


def test_it_has_expired(run: Any) -> None:
    old = ISSUE.replace("2999-12-31", "2020-01-31")
    outcome, properties, told = run(BREAKS, issues=old)
    assert (outcome, properties) == ("failed", {"verdict": "fail"})
    assert "known issue it-breaks expired on 2020-01-31: see whether it is still open" in told
    assert "renew `expires` or remove it in " in told
    assert "assert 10 == 11" in told


def test_known_issues_may_be_left_aside(run: Any) -> None:
    assert run(BREAKS, "--runxfail")[:2] == ("failed", {"verdict": "fail"})
    assert run("pass", "--runxfail")[:2] == ("passed", {"verdict": "pass"})


def test_a_file_that_is_wrong_is_refused_at_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPUMAP_LAB_CACHE", str(pytester.path / "cache"))
    path = pytester.path / "issues.yaml"
    path.write_text(ISSUE.replace("case", "cases"))
    result = pytester.runpytest("--known-issues", str(path))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*issues.yaml:3:3: *cases: unknown key; did you mean `case`?*"])
    assert "Traceback" not in result.stderr.str()
