"""The findings of `bench traffic` as one picture, an SVG that needs nothing else."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from harness.bench.rates import middle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.bench.rates_report import RateFindings, Row

LABEL, BARS, GAP, LINES, HIGH, EDGE = 330, 260, 40, 330, 22, 16
"""Widths of the columns, and the height of a row, in px."""
COLOURS = {"socket": "#4c78a8", "tap": "#b07aa1", "live": "#f28e2b", "veth": "#59a14f"}
STYLE = (
    ".b{fill:#fff}text{font:12px system-ui,sans-serif;fill:#222}.h{font-weight:600}.n{fill:#666}"
    ".g{stroke:#ddd}.w{stroke:#555;stroke-width:2}"
    "@media(prefers-color-scheme:dark){.b{fill:#1b1b1d}text{fill:#ddd}.n{fill:#aaa}.g{stroke:#444}.w{stroke:#bbb}}"
)


def draw(findings: RateFindings) -> str:
    """Return the picture: rates as bars, waits from p50 to the longest, streams by their cost."""
    rows = [row for row in findings.rows if row.samples]
    top = _draw_rows(rows, 64)
    low = 64 + HIGH * len(rows) + 40
    streams = _draw_streams(findings, low)
    width = LABEL + BARS + GAP + LINES + 2 * EDGE + 60
    height = low + (HIGH * len(findings.streams) + 40 if findings.streams else 0)
    head = f"cpumap-lab bench traffic: {findings.frames} frames a run, medians"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img"><title>{escape(head)}</title>',
            f"<style>{STYLE}</style>",
            f'<rect class="b" width="{width}" height="{height}"/>',
            _text(EDGE, 22, head, "h"),
            *top,
            *streams,
            "</svg>\n",
        ]
    )


def _draw_rows(rows: Sequence[Row], top: int) -> list[str]:
    if not rows:
        return [_text(EDGE, top, "nothing was measured", "n")]
    samples = [middle(row.samples) for row in rows]
    most = max(sample.offered for sample in samples)
    longest = max(10.0, *(sample.waits.max for sample in samples))
    left = EDGE + LABEL + BARS + GAP + 60
    parts = [
        _text(EDGE + LABEL, top - 16, "frames a second: offered, taken (line)", "n"),
        _text(left, top - 16, "wait in the ring: p50 (dot), p90, p99 (ticks), longest", "n"),
    ]

    def across(wait_us: float) -> float:
        return left + LINES * math.log10(max(wait_us, 1.0)) / math.log10(longest)

    for decade in range(math.floor(math.log10(longest)) + 1):
        x = across(10.0**decade)
        parts.append(_line(x, top - 8, x, top + HIGH * len(rows), "g"))
        parts.append(_text(x, top + HIGH * len(rows) + 12, _duration(10**decade), "n"))
    for number, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        y, each = top + HIGH * number, row.setting
        label = f"{each.injector}, {each.kernel}, {each.cpus} CPUs, qsize {each.qsize}, {each.mode}"
        lost = f", {sample.dropped:.0%} dropped" if sample.dropped else ""
        parts.append(_text(EDGE, y + 12, label))
        width = BARS * sample.offered / most
        parts.append(_bar(y, width, COLOURS[each.injector]))
        taken = EDGE + LABEL + BARS * min(sample.taken / most, 1)
        parts.append(_line(taken, y - 2, taken, y + HIGH - 6, "w"))
        parts.append(_text(EDGE + LABEL + width + 4, y + 12, f"{sample.offered:,.0f}{lost}", "n"))
        waits = sample.waits
        parts.append(_line(across(waits.p50), y + 8, across(waits.max), y + 8, "w"))
        parts += [
            _line(across(at), y + 4, across(at), y + 12, "w") for at in (waits.p90, waits.p99)
        ]
        colour = COLOURS[each.injector]
        parts.append(f'<circle cx="{across(waits.p50):.1f}" cy="{y + 8}" r="4" fill="{colour}"/>')
    return parts


def _draw_streams(findings: RateFindings, top: int) -> list[str]:
    if not findings.streams:
        return []
    most = max(each.cost_us for each in findings.streams)
    parts = [_text(EDGE, top, "streams of live frames: CPU microseconds a frame", "h")]
    for number, each in enumerate(findings.streams):
        y, width = top + 12 + HIGH * number, BARS * each.cost_us / most
        parts.append(_text(EDGE, y + 12, f"{each.frames:,} frames"))
        parts.append(_bar(y, width, COLOURS["live"]))
        told = f"{each.cost_us:.2f} µs; the lab has {each.rss_kib / 1024:.0f} MiB"
        parts.append(_text(EDGE + LABEL + width + 4, y + 12, told, "n"))
    return parts


def _bar(y: float, width: float, colour: str) -> str:
    x, high = EDGE + LABEL, HIGH - 8
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{high}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} class="{kind}"/>'


def _duration(us: int) -> str:
    for size, unit in ((10**6, "s"), (10**3, "ms")):
        if us >= size:
            return f"{us // size} {unit}"
    return f"{us} µs"
