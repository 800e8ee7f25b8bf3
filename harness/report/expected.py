"""What a scenario expects, key by key, beside what its run came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.report.story import Expectation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from harness.trace.books import Books

OTHER_NAMES = {"dropped": "queue_drops"}
"""Accounts of the books that a scenario calls by another name."""
PER_CPU = ("delivered", "dropped")
COMPLAINTS = {"shares": "share of CPU ", "in_order": "order:"}
"""How reasons begin that are about a key but do not begin with it."""
OF_OTHERS = ("within",)
"""Keys that expect nothing by themselves."""
NO_COMPLAINT = "no complaint"


def compare(
    expect: Mapping[str, Any], books: Books | None, reasons: Sequence[str]
) -> list[Expectation]:
    """Return a row for each key of a scenario's expectations, and for each CPU that it names.

    Args:
        expect: the expectations as data; a pair is a range.
        books: of the run; without them there is nothing to compare.
        reasons: why the run did not pass: what is told there of a key is not met.
    """
    return [] if books is None else list(_compare(expect, books, reasons))


def _compare(
    expect: Mapping[str, Any], books: Books, reasons: Sequence[str]
) -> Iterator[Expectation]:
    accounts = books.accounts()
    for key, wanted in expect.items():
        if key in OF_OTHERS:
            continue
        if isinstance(wanted, dict) and key in PER_CPU:
            rows = {row.cpu: int(getattr(row, key)) for row in books.per_cpu}
            for cpu in sorted(wanted.keys() | rows.keys()):
                what, found = f"{key} on CPU {cpu}", str(rows.get(cpu, 0))
                met = not any(reason.startswith(f"{what}:") for reason in reasons)
                yield Expectation(what, _say(wanted.get(cpu, 0)), found, met)
            continue
        begins = (f"{key}:", f"{key} ", COMPLAINTS.get(key, f"{key}:"))
        told = [reason for reason in reasons if reason.startswith(begins)]
        account = accounts.get(OTHER_NAMES.get(key, key))
        found = str(account) if account is not None and not isinstance(wanted, dict) else ""
        if not found and not told:
            found = _say(wanted) if isinstance(wanted, int) else NO_COMPLAINT
        yield Expectation(key, _say(wanted), found or "\n".join(told), not told)


def _say(wanted: Any) -> str:
    match wanted:
        case dict():
            return ", ".join(f"{key}: {_say(value)}" for key, value in wanted.items())
        case (low, high):
            return f"{low} to {high}"
        case bool():
            return "yes" if wanted else "no"
    return str(wanted)
