"""Why no case reaches a line: configs/unreached.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from harness.forms.load import Form
from harness.forms.model import Line as Text
from harness.forms.model import Model, Words
from harness.paths import REPO

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.coverage.result import Coverage, Line

FILE = REPO / "configs" / "unreached.yaml"


class Reason(Model):
    """Lines that no case can reach, or need not."""

    function: Text = Field(description="the function that they stand in")
    code: tuple[Text, ...] = Field(
        min_length=1, description="the lines, as they are in the source, or parts of them"
    )
    why: Annotated[str, Field(min_length=1), Words("sentences")] = Field(
        description="what would have to happen"
    )

    def fits(self, line: Line) -> bool:
        """Say whether this is about a line."""
        return line.function == self.function and any(code in line.text for code in self.code)


FORM: Form[tuple[Reason, ...]] = Form(
    tuple[Reason, ...],
    "list of lines that no case reaches",
    "such a list has entries with the keys function, code and why",
    listed=True,
)


def load_reasons(path: Path = FILE) -> tuple[Reason, ...]:
    """Read the list.

    Raises:
        UserError: with one line for each thing that is wrong in it, by line and column.
    """
    return FORM.load(path)[0]


def why_unreached(line: Line, reasons: Sequence[Reason]) -> str:
    """Return why no case reaches a line; "" if nobody said."""
    return next((" ".join(reason.why.split()) for reason in reasons if reason.fits(line)), "")


def outdated(coverage: Coverage, reasons: Sequence[Reason]) -> list[Reason]:
    """Return the reasons given for lines that are all reached, or that are not in the file."""
    return [
        reason for reason in reasons if not any(reason.fits(line) for line in coverage.unreached)
    ]
