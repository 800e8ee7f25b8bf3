"""Recognise in kernel messages that a kernel is broken, whatever else a case says.

Sources of the texts: lib/bug.c, kernel/panic.c, arch/x86/kernel/dumpstack.c, mm/kasan/report.c,
mm/slub.c, kernel/locking/lockdep.c, kernel/rcu/tree_stall.h, kernel/watchdog.c, kernel/hung_task.c
of 5.10 to 7.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

OOPS = r".*: [0-9a-f]{4} \[#\d+\]|Oops\b"
"""What die() prints: "general protection fault: 0000 [#1]", with "Oops: " in front from 6.11 on."""
WARN = r"WARNING: (CPU: \d+ PID: \d+|(\S+:\d+ )?at \S+\+0x)"
STARVED = r"rcu: rcu_\w+ kthread (starved|timer wakeup)"

KINDS: tuple[tuple[str, str, str], ...] = (
    ("panic", r"Kernel panic - not syncing", ""),
    ("kasan", r"BUG: KASAN: ", ""),
    ("kcsan", r"BUG: KCSAN: ", ""),
    ("kmsan", r"BUG: KMSAN: ", ""),
    ("kfence", r"BUG: KFENCE: ", ""),
    ("ubsan", r"UBSAN: ", ""),
    ("lockdep", r"WARNING: possible (circular|recursive|irq lock inversion)", ""),
    ("lockdep", r"WARNING: (inconsistent lock state|bad (unlock balance|contention) detected)", ""),
    ("lockdep", r"WARNING: (suspicious RCU usage|chain_key collision|Nested lock was not)", ""),
    ("lockdep", r"WARNING: (lock held when returning|held lock freed|.* still has locks held)", ""),
    ("lockdep", r"WARNING: \S+-safe -> \S+-unsafe lock order detected", ""),
    ("lockdep", r"\[ BUG: Invalid wait context", ""),
    ("lockdep", r"INFO: trying to register non-static key", "turning off the locking"),
    ("soft lockup", r"watchdog: BUG: soft lockup", ""),
    ("hard lockup", r"(NMI )?watchdog: .*Watchdog detected hard LOCKUP", ""),
    ("workqueue lockup", r"BUG: workqueue lockup", ""),
    ("hung task", r"INFO: task .* blocked (for more than|in I/O wait)", ""),
    ("rcu stall", r"(rcu: )?INFO: rcu\w* (self-)?detected (expedited )?stall", STARVED),
    ("rcu stall", STARVED, STARVED),
    ("bug", r"kernel BUG at ", OOPS),
    ("bug", r"list_(add|del) corruption", f"kernel BUG at |{WARN}|{OOPS}"),
    ("bug", r"refcount_t: ", WARN),
    ("bug", r"BUG \S+ \(.*\): ", WARN),  # slub; it warns as well since 6.15
    ("oops", r"BUG: (unable to handle|kernel NULL pointer|.* stack guard page)", OOPS),
    ("oops", OOPS, ""),
    ("oops", r"traps: PANIC: ", OOPS),
    ("warn", WARN, ""),
    ("warn", r"Incorrect XDP memory type", WARN),
    ("warn", r"Missing xdp_do_flush\(\) invocation", WARN),
    ("leak", r"kmemleak: \d+ new suspected memory leaks", ""),
    ("leak", r"page_pool_release_retry\(\) stalled pool shutdown", ""),
    ("leak", r"unregister_netdevice: waiting for ", ""),
    ("bug", r"BUG: ", "turning off the locking"),
)
"""Kind; how a report's first line begins; and how those of its other lines begin that could be the
first of a report as well."""

PREFIX = re.compile(r"^(<\d+>)?(\[ *\d+\.\d+\])?(\[ *[TC]\d+\])? *")
FIRST = tuple((kind, re.compile(first), re.compile(then or "(?!)")) for kind, first, then in KINDS)
END = re.compile(r"---\[ end ")
PLACE = re.compile(r"RIP: 0010:([\w.]+\+0x\S+)")
EXCERPT_LINES = 60


@dataclass(frozen=True, slots=True)
class Splat:
    """One report by the kernel that it is broken.

    Attributes:
        kind: "panic", "oops", "bug", "warn", "kasan", "lockdep", "rcu stall", …
        title: the line that told, without its time stamp, and where the CPU was if a later line
            tells that.
        text: that line and what follows, up to the end of the trace (at most 60 lines).
    """

    kind: str
    title: str
    text: str


def find_splats(messages: str) -> list[Splat]:
    """Return the splats in a console log or dmesg, in order; [] for a healthy kernel.

    What one report prints up to its "end trace" or to the next report is one splat; a panic that
    an oops leads to is told for itself.
    """
    lines = messages.replace("\r", "").split("\n")
    splats: list[Splat] = []
    begin, kind, then = 0, "", re.compile("")  # of the report that is open, if `kind` is not ""

    def close(end: int) -> None:
        nonlocal kind
        if kind:
            splats.append(_splat(kind, lines[begin : min(end, begin + EXCERPT_LINES)]))
        kind = ""

    for at, line in enumerate(lines):
        message = PREFIX.sub("", line)
        if kind and at < begin + EXCERPT_LINES and then.match(message):
            continue
        known = next((row for row in FIRST if row[1].match(message)), None)
        if known is not None:
            close(at)
            begin, kind, then = at, known[0], known[2]
        elif END.match(message):
            close(at + 1)
    close(len(lines))
    return splats


def _splat(kind: str, lines: list[str]) -> Splat:
    title = PREFIX.sub("", lines[0]).strip()
    text = "\n".join(lines)
    place = PLACE.search(text)
    if place and place[1] not in title:
        title = f"{title}, at {place[1]}"
    return Splat(kind, title, text)
