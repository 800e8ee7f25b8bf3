"""/dev/kmsg read as dmesg(1) would print it."""

from __future__ import annotations

from harness.machine.splats import find_splats
from harness.target.kmsg import read_records

RECORDS = """\
6,1,1000042,-;first
 SUBSYSTEM=net
 DEVICE=n3
4,2,12000000,-,caller=T7;a tab\\x09and a backslash\\x5c
4,3,13000000,c;WARNING: CPU: 1 PID: 7 at kernel/bpf/cpumap.c:129 __cpu_map_ring_cleanup+0x1/0x2
"""


def test_records_become_lines() -> None:
    assert read_records(RECORDS).splitlines()[:2] == [
        "[    1.000042] first",
        "[   12.000000] a tab\tand a backslash\\",
    ]
    assert read_records("") == ""
    assert read_records("no record\n") == ""


def test_a_splat_is_found_there() -> None:
    (splat,) = find_splats(read_records(RECORDS))
    assert "__cpu_map_ring_cleanup" in splat.title
