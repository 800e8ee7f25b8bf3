"""Recognise in kernel messages that a kernel is broken, whatever else a case says.

Sources of the texts: lib/bug.c, kernel/panic.c, arch/x86/kernel/dumpstack.c, mm/kasan/report.c,
kernel/locking/lockdep.c, kernel/rcu/tree_stall.h, kernel/watchdog.c, kernel/hung_task.c of
5.10 to 7.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TRAPS = (
    "general protection fault|int3|divide error|invalid opcode|stack segment|double fault"
    "|alignment check|control protection|bounds|segment not present|invalid TSS"
)
KINDS: tuple[tuple[str, str], ...] = (
    ("panic", r"Kernel panic - not syncing"),
    ("kasan", r"BUG: KASAN: "),
    ("kcsan", r"BUG: KCSAN: "),
    ("kmsan", r"BUG: KMSAN: "),
    ("kfence", r"BUG: KFENCE: "),
    ("ubsan", r"UBSAN: "),
    ("lockdep", r"WARNING: possible (circular|recursive|irq lock inversion|irq-unsafe|deadlock)"),
    ("lockdep", r"WARNING: (inconsistent lock state|bad unlock balance|suspicious RCU usage)"),
    ("lockdep", r"WARNING: (lock held when returning|held lock freed|Nested lock)"),
    ("lockdep", r"(WARNING|INFO): (SOFTIRQ|HARDIRQ|RECLAIM_FS)-.* lock order detected"),
    ("lockdep", r"(\[ )?BUG: Invalid wait context"),
    ("lockdep", r"turning off the locking correctness validator"),
    ("soft lockup", r"watchdog: BUG: soft lockup"),
    ("hard lockup", r"(NMI )?[Ww]atchdog.*hard LOCKUP"),
    ("workqueue lockup", r"BUG: workqueue lockup"),
    ("hung task", r"INFO: task .* blocked (for more than|in I/O wait)"),
    ("rcu stall", r"(rcu: )?INFO: rcu\w* (self-)?detected (expedited )?stalls?"),
    ("rcu stall", r"(rcu: )?rcu_\w+ kthread (starved|timer wakeup)"),
    ("bug", r"kernel BUG at "),
    ("oops", r"BUG: (unable to handle|kernel NULL pointer|TASK stack guard|stack guard page)"),
    (
        "oops",
        r"(Oops: )?(general protection fault|int3|divide error|invalid opcode)\b.*: [0-9a-f]{4}",
    ),
    (
        "oops",
        r"(Oops: )?(stack segment|double fault|alignment check|control protection).*: [0-9a-f]{4}",
    ),
    ("oops", r"Oops\b"),
    ("oops", r"traps: PANIC"),
    ("bug", r"BUG: (scheduling while atomic|sleeping function|using \w+ in preemptible)"),
    ("bug", r"BUG: (Bad (page|rss)|non-zero pgtables|spinlock|rwlock|Dentry)"),
    ("bug", r"BUG [\w:. -]+ \(.*\): "),
    ("bug", r"list_(add|del) corruption"),
    ("bug", r"refcount_t: "),
    ("warn", r"WARNING: (CPU: \d+ PID: \d+|\S+:\d+ at )"),
    ("warn", r"Incorrect XDP memory type"),
    ("warn", r"Missing xdp_do_flush\(\) invocation"),
    ("leak", r"kmemleak: \d+ new suspected memory leaks"),
    ("leak", r"page_pool_release_retry\(\) stalled pool shutdown"),
    ("leak", r"unregister_netdevice: waiting for "),
    ("bug", r"BUG: "),
)
PREFIX = re.compile(r"^(<\d+>)?(\[ *\d+\.\d+\])?(\[ *[TC]\d+\])? *")
MESSAGE = tuple((kind, re.compile(pattern)) for kind, pattern in KINDS)
END = re.compile(r"---\[ end ")
EXCERPT_LINES = 60


@dataclass(frozen=True, slots=True)
class Splat:
    """One report by the kernel that it is broken.

    Attributes:
        kind: "panic", "oops", "bug", "warn", "kasan", "lockdep", "rcu stall", …
        title: the line that told, without its time stamp.
        text: that line and what follows, up to the end of the trace (at most 60 lines).
    """

    kind: str
    title: str
    text: str


def find_splats(messages: str) -> list[Splat]:
    """Return the splats in a console log or dmesg, in order; [] for a healthy kernel.

    What one report prints between its first line and its "end trace" is one splat, but a panic
    is always told.
    """
    lines = messages.replace("\r", "").split("\n")
    splats: list[Splat] = []
    covered = 0
    for at, line in enumerate(lines):
        message = PREFIX.sub("", line)
        kind = next((kind for kind, pattern in MESSAGE if pattern.match(message)), None)
        if kind is None or (at < covered and kind != "panic"):
            continue
        end = min(at + EXCERPT_LINES, len(lines))
        for ahead in range(at, end):
            if END.search(lines[ahead]):
                end = ahead + 1
                break
        covered = max(covered, end)
        splats.append(Splat(kind, message.strip(), "\n".join(lines[at:end])))
    return splats
