"""/dev/kmsg read as dmesg(1) would print it (Documentation/ABI/testing/dev-kmsg). Pure."""

from __future__ import annotations

import re

RECORD = re.compile(r"\d+,\d+,(\d+),[^;\n]*;(.*)")


def read_records(text: str) -> str:
    """Return the lines of some records, each with its time; what describes a device is left out."""
    lines = []
    for line in text.splitlines():
        if record := RECORD.fullmatch(line):
            seconds, micros = divmod(int(record[1]), 10**6)
            said = re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), record[2])
            lines.append(f"[{seconds:5}.{micros:06}] {said}\n")
    return "".join(lines)
