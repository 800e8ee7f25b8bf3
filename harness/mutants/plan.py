"""Deliberate bugs in cpumap.c, from configs/mutants.yaml, and how one is put into its source."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from harness.errors import UserError
from harness.forms.load import Form
from harness.forms.model import Line, Model, Words, keys_of, refuse, refuse_repeats
from harness.matrix.plan import EXPRESSION, fault_of
from harness.paths import REPO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILE = REPO / "configs" / "mutants.yaml"


def _check_expression(text: str) -> str:
    if fault := fault_of(text):
        raise refuse(f"{fault}; pytest's -k takes {EXPRESSION}")
    return text


Code = Annotated[str, Field(min_length=1), Words("C, as it stands in cpumap.c")]


class Mutant(Model):
    """A bug: some code of cpumap.c that becomes other code."""

    name: Annotated[
        str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$"), Words("words in small letters, with -")
    ] = Field(description="what it is called")
    function: Line | None = Field(
        alias="in",
        default=None,
        description="the function that it is in; left out where it is in none",
    )
    code: Code = Field(description="what is there, once; white space is all the same")
    becomes: str = Field(description="what is there instead")
    caught_by: Annotated[Line, AfterValidator(_check_expression)] | None = Field(
        default=None, description="the cases that see it (pytest -k); left out: any of them"
    )
    unseen: Annotated[str, Field(min_length=1), Words("sentences")] | None = Field(
        default=None, description="why no case can see it, if none can"
    )

    def apply(self, source: str) -> str | None:
        """Return the source with the bug in it; None if it has no such code.

        Args:
            source: of a cpumap.c.

        Raises:
            UserError: the code stands there more than once.
        """
        begin, end = self._reach(source)
        pattern = re.compile(r"\s+".join(map(re.escape, self.code.split())))
        found = list(pattern.finditer(source, begin, end))
        if len(found) > 1:
            lines = ", ".join(str(source.count("\n", 0, each.start()) + 1) for each in found)
            raise UserError(
                f"mutant {self.name}: its `code` stands in cpumap.c more than once, in the lines "
                f"{lines}",
                remedy="give more of the code around it",
            )
        if not found:
            return None
        (match,) = found
        return source[: match.start()] + self.becomes.strip() + source[match.end() :]

    def _reach(self, source: str) -> tuple[int, int]:
        """Return where the function begins and ends."""
        if self.function is None:
            return 0, len(source)
        head = rf"^[a-z][^;{{}}()=]*?\b{re.escape(self.function)}\([^;{{}}]*\)\n\{{.*?^\}}"
        match = re.search(head, source, re.MULTILINE | re.DOTALL)
        return match.span() if match else (0, 0)


def _check_names(mutants: tuple[Mutant, ...]) -> tuple[Mutant, ...]:
    refuse_repeats([mutant.name for mutant in mutants], "name")
    return mutants


FORM: Form[tuple[Mutant, ...]] = Form(
    Annotated[tuple[Mutant, ...], AfterValidator(_check_names)],
    "list of mutants",
    f"mutants are a list; each has the keys {keys_of(Mutant)}",
    listed=True,
)


def load_mutants(path: Path) -> tuple[Mutant, ...]:
    """Read a file of mutants.

    Raises:
        UserError: with one line for each thing that is wrong in it, by line and column.
    """
    return FORM.load(path)[0]


def choose(mutants: Sequence[Mutant], names: Sequence[str]) -> list[Mutant]:
    """Return the mutants of these names, in the order of the file; without names, all.

    Raises:
        UserError: there is none of a name.
    """
    known = {mutant.name for mutant in mutants}
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"there is no mutant {', '.join(unknown)}", remedy="`cpumap-lab mutants --plan`"
        )
    return [mutant for mutant in mutants if not names or mutant.name in names]
