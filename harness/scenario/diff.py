"""Two runs that were kept, compared: first what they were made from, then what came of them."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import ScenarioError
from harness.report.diff import CONDITIONS, TIMING, Row, Value
from harness.report.expected import NO_COMPLAINT
from harness.report.files import TRACE
from harness.report.perfetto import Counts, count_events
from harness.scenario.again import Kept, read_run, shorten
from harness.scenario.recipe import list_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNTS = ("enqueued", "dropped", "kthread", "delivered")
ANSWER = re.compile(r"timeline\[(\d+)\]: .*expected \S+, found (.+)")
EVENTS, WAITS = TIMING


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs.

    Attributes:
        kept: what run.json has of it.
        events: of its trace; None when none was kept.
    """

    kept: Kept
    events: Counts | None = None


def read_side(path: Path) -> Side:
    """Read a run and its trace.

    Args:
        path: its run.json, or the directory of its results.

    Raises:
        ScenarioError: there is none, it is of a newer version, or its trace is none.
    """
    kept = read_run(path)
    trace = (path if path.is_dir() else path.parent) / TRACE
    try:
        return Side(kept, count_events(trace.read_bytes()))
    except FileNotFoundError:
        return Side(kept)
    except OSError as error:
        raise ScenarioError(f"cannot read the trace {trace}: {error.strerror}") from None
    except ValueError:
        raise ScenarioError(f"{trace} is no trace of cpumap-lab") from None


def compare(a: Side, b: Side) -> list[Row]:
    """Return a row for each thing that either run has, the same or not."""
    return [
        *_pair(CONDITIONS, dict(_tell_recipe(a.kept)), dict(_tell_recipe(b.kept))),
        *_pair("verdict", _tell_verdict(a.kept), _tell_verdict(b.kept)),
        *_compare_complaints(a.kept, b.kept),
        *_pair("answers of the timeline", _tell_answers(a.kept), _tell_answers(b.kept)),
        *_pair("books, in frames", a.kept.ledger, b.kept.ledger),
        *_compare_cpus(a.kept, b.kept),
        *_pair(EVENTS, _tell_events(a.events), _tell_events(b.events)),
        *_pair(WAITS, _tell_waits(a.kept), _tell_waits(b.kept)),
    ]


def _pair(group: str, a: Any, b: Any) -> Iterator[Row]:
    for what in dict.fromkeys([*a, *b]):
        yield Row(group, what, _plain(a.get(what)), _plain(b.get(what)))


def _plain(value: object) -> Value:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if value is None or isinstance(value, int | float) else shorten(value)


def _tell_recipe(kept: Kept) -> Iterator[tuple[str, object]]:
    yield "kernel", ", ".join(kept.scenario.kernel)
    yield from list_recipe(kept.recipe)
    yield from _flatten("scenario", kept.scenario.model_dump(exclude_none=True, exclude={"kernel"}))


def _flatten(at: str, data: object) -> Iterator[tuple[str, object]]:
    """Yield the leaves of a scenario's data, each with where it stands."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _flatten(f"{at}.{key}", value)
    elif isinstance(data, tuple | list):
        for number, value in enumerate(data):
            yield from _flatten(f"{at}[{number}]", value)
    else:
        yield at, data


def _tell_verdict(kept: Kept) -> dict[str, object]:
    return {"verdict": kept.verdict}


def _compare_complaints(a: Kept, b: Kept) -> Iterator[Row]:
    """Yield what was not as expected in either run: a reason begins with what it is about."""
    mine, other = _tell_complaints(a), _tell_complaints(b)
    for what in dict.fromkeys([*mine, *other]):
        told = mine.get(what, NO_COMPLAINT), other.get(what, NO_COMPLAINT)
        yield Row("reasons", what, *told)


def _tell_complaints(kept: Kept) -> dict[str, str]:
    told: dict[str, str] = {}
    for number, reason in enumerate(kept.reasons):
        what, found, rest = reason.rpartition(": expected ")
        if not found:
            what, rest = f"reason {number + 1}", reason
        told[what] = f"expected {rest}" if found else rest
    return told


def _tell_answers(kept: Kept) -> dict[str, object]:
    """Return what each action of the timeline was answered, where the run came to its end."""
    if kept.verdict not in ("pass", "fail", "known"):
        return {}
    told = [match for reason in kept.reasons if (match := ANSWER.fullmatch(reason))]
    found = {int(match[1]): match[2] for match in told}
    return {
        f"timeline[{number}]: {step.do}": found.get(number, step.errno or "success")
        for number, step in enumerate(kept.scenario.timeline)
    }


def _compare_cpus(a: Kept, b: Kept) -> Iterator[Row]:
    rows = [{row.cpu: row for row in kept.per_cpu} for kept in (a, b)]
    group = "by CPU, in frames and as shares"
    for cpu in sorted(rows[0].keys() | rows[1].keys()):
        for name in COUNTS:
            first, second = (_count(side, cpu, name) for side in rows)
            yield Row(group, f"CPU {cpu}: {name}", first, second)
            shares = _share(rows[0], cpu, name), _share(rows[1], cpu, name)
            yield Row(group, f"CPU {cpu}: share of all {name}", shares[0], shares[1], "%")


def _count(rows: Any, cpu: int, name: str) -> int | None:
    """Return a CPU's count; None for a run that has no CPU at all."""
    return None if not rows else getattr(rows[cpu], name) if cpu in rows else 0


def _share(rows: Any, cpu: int, name: str) -> float | None:
    total = sum(getattr(row, name) for row in rows.values())
    count = _count(rows, cpu, name)
    return round(100 * count / total, 2) if count is not None and total else None


def _tell_events(counts: Counts | None) -> dict[str, object]:
    if counts is None:
        return {}
    told: dict[str, object] = {"first to last, in ms": counts.span_s * 1000}
    for name, number in counts.events.items():
        told[name] = number
        if counts.span_s:
            told[f"{name}, per second"] = number / counts.span_s
    return told


def _tell_waits(kept: Kept) -> dict[str, object]:
    return {
        f"CPU {cpu}: {name}{'' if name == 'frames' else ' in µs'}": value
        for cpu, waits in kept.waits.items()
        for name, value in asdict(waits).items()
    }
