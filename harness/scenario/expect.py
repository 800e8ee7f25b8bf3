"""What a scenario expects of the closed books."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.scenario.schema import Expect
    from harness.trace.books import Books


def find_failures(expect: Expect, books: Books) -> list[str]:
    """Return each expectation that the books do not meet, as a sentence."""
    failures = []
    per_cpu = {
        "delivered": {row.cpu: row.delivered for row in books.per_cpu},
        "dropped": {row.cpu: row.dropped for row in books.per_cpu},
    }
    in_all = {
        "delivered": books.delivered,
        "dropped": books.queue_drops,
        "aborted": books.aborted,
        "passed": books.passed,
    }
    for key, total in in_all.items():
        wanted = getattr(expect, key)
        if isinstance(wanted, dict):
            found = per_cpu[key]
            for cpu in sorted(wanted.keys() | found.keys()):
                want, have = wanted.get(cpu, 0), found.get(cpu, 0)
                if want != have:
                    failures.append(f"{key} on CPU {cpu}: expected {want} frames, found {have}")
        elif wanted is not None and wanted != total:
            failures.append(f"{key}: expected {wanted} frames, found {total}")
    return failures
