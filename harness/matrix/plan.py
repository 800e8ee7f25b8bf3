"""Which cases run on which kernels, from configs/matrix.yaml and from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from harness.forms.load import Form
from harness.forms.model import Model, Spec, refuse_repeats
from harness.paths import REPO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILE = REPO / "configs" / "matrix.yaml"
Cases = Literal["all", "smoke"]
EXPRESSION = 'words with and, or, not: "gro and not lone"'
"""What pytest's -k takes."""


class Row(Model):
    """A kernel of the matrix."""

    kernel: Spec = Field(description="the kernel")
    cases: Cases = Field(default="all", description="all cases, or those marked `smoke`")


class Matrix(Model):
    """Kernels, and how much is run on each."""

    kernels: tuple[Row, ...] = Field(min_length=1, max_length=64, description="the kernels")

    @model_validator(mode="after")
    def _check_kernels(self) -> Self:
        refuse_repeats([row.kernel for row in self.kernels], "kernel", "kernels")
        return self

    def choose(self, specs: Sequence[str], cases: Cases | None) -> Matrix:
        """Return the matrix of what is asked for on the command line.

        Args:
            specs: kernels instead of the matrix's; one that is not in it has all cases.
            cases: how much to run on each, instead of what the matrix says.
        """
        known = {row.kernel: row for row in self.kernels}
        rows = [known.get(spec, Row(kernel=spec)) for spec in dict.fromkeys(specs)] or self.kernels
        if cases:
            rows = [Row(kernel=row.kernel, cases=cases) for row in rows]
        return Matrix(kernels=tuple(rows))

    @property
    def specs(self) -> list[str]:
        """The kernels' specs."""
        return [row.kernel for row in self.kernels]


FORM: Form[Matrix] = Form(
    Matrix, "matrix", "a matrix is a mapping with the key kernels, a list of kernels and cases"
)


def load_matrix(path: Path) -> Matrix:
    """Read a matrix from a file.

    Raises:
        UserError: with one line for each thing that is wrong in it, by line and column.
    """
    return FORM.load(path)[0]


def fault_of(expression: str) -> str | None:
    """Return what pytest would not like in a -k of this expression; None if it takes it."""
    from _pytest.mark.expression import Expression  # noqa: PLC0415 - it has no public name

    try:
        Expression.compile(expression)
    except SyntaxError as error:
        return error.msg
    return None
