"""What `bisect` and `bisect-step` both take."""

from __future__ import annotations

import re

import click


def _compile(_: click.Context, __: click.Parameter, text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text, re.MULTILINE) if text is not None else None
    except re.error as error:
        raise click.BadParameter(f"{text!r} is no regular expression: {error}") from None


SUBJECT = click.argument("subject", metavar="SUBJECT")
INVERT = click.option("--invert", is_flag=True, help="Look for what fixed it.")
SIGNATURE = click.option(
    "--signature",
    metavar="REGEX",
    callback=_compile,
    help="What shows the failure is this text on the guest's console, not the verdict. Another "
    "crash is skipped, for it may hide this one.",
)
