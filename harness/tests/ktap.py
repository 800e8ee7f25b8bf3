"""A strict reader of KTAP: what its rules only recommend is required, unknown lines are errors.

Source: Documentation/dev-tools/ktap.rst of Linux 7.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

RESULT = re.compile(r"(ok|not ok) ([0-9]+)(?: ([^#]*[^# ]))?(?: # (.*))?")
DIRECTIVES = {"SKIP": None, "TODO": None, "XFAIL": None, "TIMEOUT": False, "ERROR": False}
"""What a result must be with a directive; None stands for either."""


@dataclass
class Test:
    """A test as a reader of KTAP finds it.

    Attributes:
        directive: the word behind the hash sign, if there is one.
        reason: what follows it.
    """

    __test__ = False

    name: str
    ok: bool
    directive: str | None
    reason: str
    subtests: list[Test] = field(default_factory=list)
    diagnostics: list[str] = field(default_factory=list)


def read_ktap(text: str) -> list[Test]:
    """Return the tests of an output.

    Raises:
        ValueError: a line breaks the rules; it is named.
    """
    return _Reader(text.split("\n")).whole()


class _Reader:
    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.at = 0

    def whole(self) -> list[Test]:
        tests = self.level("", None)
        self.need(self.lines[self.at :] == [""], "more than was planned")
        return tests

    def level(self, indent: str, named: list[str] | None) -> list[Test]:
        """Read a version line, a plan, and as many results; note the parent's name."""
        self.need(self.take(indent) == "KTAP version 1", "no version line")
        if named is not None and self.peek(indent).startswith("# Subtest: "):
            named.append(self.take(indent).removeprefix("# Subtest: "))
        plan = re.fullmatch(r"1\.\.([0-9]+)", self.take(indent))
        self.need(plan, "no plan")
        assert plan
        return [self.test(indent, number) for number in range(1, int(plan[1]) + 1)]

    def test(self, indent: str, number: int) -> Test:
        subtests: list[Test] = []
        named: list[str] = []
        diagnostics = []
        while not (result := RESULT.fullmatch(line := self.peek(indent))):
            if line == "  KTAP version 1" and not subtests:
                subtests = self.level(f"{indent}  ", named)
                continue
            self.need(line.startswith("# "), "neither a result nor a diagnostic line")
            diagnostics.append(self.take(indent)[2:])
        word, _, reason = (result[4] or "").partition(" ")
        ok, name = result[1] == "ok", result[3] or ""
        self.need(int(result[2]) == number, f"not number {number}")
        self.need(not result[4] or word in DIRECTIVES, f"{word} is no directive")
        self.need(DIRECTIVES.get(word) in {None, ok}, f"ok, and yet {word}")
        self.need(not subtests or ok == all(each.ok for each in subtests), "not as its subtests")
        self.need(named in ([], [name]), f"its subtests are those of {named}")
        self.at += 1
        return Test(name, ok, word or None, reason, subtests, diagnostics)

    def peek(self, indent: str) -> str:
        line = self.lines[self.at] if self.at < len(self.lines) else ""
        self.need(line.startswith(indent) and line.strip(), f"no line indented by {len(indent)}")
        return line.removeprefix(indent)

    def take(self, indent: str) -> str:
        line = self.peek(indent)
        self.at += 1
        return line

    def need(self, condition: object, what: str) -> None:
        if not condition:
            raise ValueError(f"line {self.at + 1}: {what}: {self.lines[self.at : self.at + 1]}")
