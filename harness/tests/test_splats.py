from __future__ import annotations

from pathlib import Path

import pytest

from harness.machine.splats import EXCERPT_LINES, find_splats

CORPUS = Path(__file__).parent / "corpus"
GPF = "general protection fault, probably for non-canonical address"
FATAL = ("panic", "Kernel panic - not syncing: Fatal exception")

BROKEN: dict[str, list[tuple[str, str]]] = {
    "gpf-5.10": [("oops", f"{GPF} 0x6b6b6b6b6b6b6b6b: 0000 [#1] SMP NOPTI, at eth_type"), FATAL],
    "gpf-7.3": [("oops", f"Oops: {GPF} 0x6b6b6b6b6b6b6b6b: 0000 [#1] SMP NOPTI, at eth"), FATAL],
    "null-pointer": [
        ("oops", "BUG: kernel NULL pointer dereference, address: 0000000000000008, at")
    ],
    "page-fault": [("oops", "BUG: unable to handle page fault for address: ffffc9"), FATAL],
    "kernel-bug": [("bug", "kernel BUG at mm/slub.c:435!, at __slab_free+0x1f4/0x340")],
    "kernel-bug-7.3": [("bug", "kernel BUG at net/core/skbuff.c:207!, at skb_panic+0x4d/0x4f")],
    "warn-6.1": [("warn", "WARNING: CPU: 1 PID: 2 at kernel/bpf/cpumap.c:142 put_cpu_map_entry")],
    "warn-7.3": [
        ("warn", "WARNING: kernel/bpf/cpumap.c:129 at __cpu_map_entry_free+0xd4/0xe0, CPU")
    ],
    "warn-no-file": [("warn", "WARNING: at __cpu_map_entry_free+0xd4/0xe0, CPU#1")],
    "warn-message": [
        ("warn", "Incorrect XDP memory type (1764) usage"),
        ("warn", "Missing xdp_do_flush() invocation after NAPI by virtnet_poll [virtio_net]"),
    ],
    "kasan": [
        ("kasan", "BUG: KASAN: slab-use-after-free in eth_type_trans+0x3a1/0x4c0"),
        ("oops", f"Oops: {GPF} 0xdffffc0000000000: 0000 [#1]"),
    ],
    "kcsan": [("kcsan", "BUG: KCSAN: data-race in bq_enqueue / cpu_map_kthread_run")],
    "kfence": [("kfence", "BUG: KFENCE: use-after-free read in cpu_map_enqueue+0x12/0x40")],
    "kmsan": [("kmsan", "BUG: KMSAN: uninit-value in cpu_map_bpf_prog_run_xdp+0x1ac/0x5d0")],
    "ubsan": [("ubsan", "UBSAN: array-index-out-of-bounds in kernel/bpf/cpumap.c:762:11")],
    "ubsan-5.10": [("ubsan", "UBSAN: shift-out-of-bounds in kernel/bpf/cpumap.c:98:13")],
    "lockdep": [("lockdep", "WARNING: possible circular locking dependency detected")],
    "lockdep-kinds": [("lockdep", "")] * 15,
    "lockdep-off": [
        ("lockdep", "INFO: trying to register non-static key."),
        ("bug", "BUG: MAX_LOCKDEP_CHAINS too low!"),
    ],
    "hung-task": [
        ("hung task", "INFO: task kworker/1:2:34 blocked for more than 120 seconds."),
        ("hung task", "INFO: task init:1 blocked in I/O wait for more than 120 seconds."),
        ("warn", "WARNING: CPU: 1 PID: 2 at kernel/rcu/tree.c:1"),
    ],
    "rcu-stall": [("rcu stall", "rcu: INFO: rcu_preempt self-detected stall on CPU, at spin+0x")],
    "rcu-stall-kinds": [("rcu stall", "")] * 4,
    "lockups": [
        (
            "soft lockup",
            "watchdog: BUG: soft lockup - CPU#3 stuck for 26s! [cpumap/3/map:1:120], at",
        ),
        ("soft lockup", "watchdog: BUG: soft lockup - CPU#3 stuck for 52s!"),
        ("hard lockup", "NMI watchdog: Watchdog detected hard LOCKUP on cpu 1"),
        ("hard lockup", "watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 1"),
        ("workqueue lockup", "BUG: workqueue lockup - pool cpus=3"),
    ],
    "slub": [
        ("bug", "BUG kmalloc-64 (Not tainted): Poison overwritten"),
        ("bug", "BUG kmalloc-cg-64(12:init.scope) (Tainted: G    B  ): Redzone overwritten"),
    ],
    "slub-7.3": [("bug", "BUG skbuff_head_cache (Not tainted): Object already free")],
    "refcount": [("bug", "refcount_t: underflow; use-after-free.")],
    "list-corruption": [
        ("bug", "list_del corruption, ffff88800b0d3118->next is LIST_POISON1"),
        ("bug", "list_add corruption. prev->next should be next"),
    ],
    "atomic": [
        ("bug", "BUG: scheduling while atomic: cpumap/3/map:1/120/0x00000200"),
        ("bug", "BUG: sleeping function called from invalid context"),
        ("bug", "BUG: using smp_processor_id() in preemptible [00000000] code: init/1"),
        ("bug", "BUG: Bad page state in process cpumap/3/map:1  pfn:07000"),
        ("bug", "BUG: Bad rss-counter state"),
        ("bug", "BUG: spinlock bad magic on CPU#0, init/1"),
        ("oops", "BUG: TASK stack guard page was hit at ffffc90000123ff8"),
    ],
    "leaks": [
        ("leak", "page_pool_release_retry() stalled pool shutdown: id 4, 8 inflight 60 sec"),
        ("leak", "page_pool_release_retry() stalled pool shutdown: id 4, 8 inflight 120 sec"),
        ("leak", "unregister_netdevice: waiting for eth0 to become free. Usage count = 2"),
        ("leak", "kmemleak: 3 new suspected memory leaks"),
    ],
    "double-fault": [("oops", "traps: PANIC: double fault, error_code: 0x0, at asm_exc"), FATAL],
    "traps": [
        ("oops", "int3: 0000 [#1] SMP NOPTI, at sched_clock_cpu+0x1a/0xc0"),
        ("oops", "Oops: int3: 0000 [#2]"),
        ("oops", "divide error: 0000 [#3]"),
        ("oops", "stack segment: 0000 [#4]"),
        ("oops", "control protection fault: 0003 [#5]"),
    ],
    "panic-no-init": [("panic", "Kernel panic - not syncing: No working init found.")],
}

INNOCENT = (CORPUS / "innocent.txt").read_text()


def bare(text: str) -> str:
    """Strip the time stamps: what a console without printk.time shows."""
    return "\n".join(line.partition("] ")[2] or line for line in text.split("\n"))


def decorated(prefix: str, text: str) -> str:
    return "\n".join(prefix + line for line in text.split("\n"))


def told(text: str) -> list[tuple[str, str]]:
    return [(splat.kind, splat.title) for splat in find_splats(text)]


def test_each_sample_has_its_expectation() -> None:
    assert {path.stem for path in (CORPUS / "broken").iterdir()} == set(BROKEN)


@pytest.mark.parametrize("name", BROKEN)
def test_each_report_is_told_once(name: str) -> None:
    text = (CORPUS / "broken" / f"{name}.txt").read_text()
    found = told(text)
    assert [kind for kind, _ in found] == [kind for kind, _ in BROKEN[name]]
    for (_, title), (_, start) in zip(found, BROKEN[name], strict=True):
        assert title.startswith(start)


@pytest.mark.parametrize("name", sorted({*BROKEN} - {"null-pointer", "panic-no-init", "hung-task"}))
@pytest.mark.parametrize(
    "prefix",
    ["", "<4>", "[    0.000000] ", "[12345.678901][    T1] ", "<4>[    1.000000][   C3] "],
)
def test_prefixes_do_not_matter(name: str, prefix: str) -> None:
    text = (CORPUS / "broken" / f"{name}.txt").read_text()
    assert told(decorated(prefix, bare(text))) == told(text)


def test_carriage_returns_do_not_matter() -> None:
    text = (CORPUS / "broken" / "gpf-7.3.txt").read_text()
    assert find_splats(text.replace("\n", "\r\n")) == find_splats(text)


@pytest.mark.parametrize("release", [path.stem for path in (CORPUS / "healthy").iterdir()])
def test_a_healthy_kernel_has_none(release: str) -> None:
    text = (CORPUS / "healthy" / f"{release}.txt").read_text()
    assert len(text.splitlines()) > 150
    assert find_splats(text) == []


@pytest.mark.parametrize("line", INNOCENT.splitlines())
@pytest.mark.parametrize("prefix", ["", "[    1.000000] ", "<4>[    1.000000][    T1] "])
def test_innocent_lines(line: str, prefix: str) -> None:
    assert find_splats(prefix + line) == []


def test_a_report_among_healthy_lines_is_found() -> None:
    healthy = (CORPUS / "healthy" / "7.3.txt").read_text()
    warn = (CORPUS / "broken" / "warn-7.3.txt").read_text()
    (splat,) = find_splats(healthy + warn + INNOCENT)
    assert splat.text.startswith("[   61.100200] WARNING: kernel/bpf/cpumap.c:129")
    assert splat.text.endswith("---[ end trace 0000000000000000 ]---")


def test_two_reports_back_to_back_are_two() -> None:
    warn = (CORPUS / "broken" / "warn-6.1.txt").read_text()
    assert len(find_splats(warn * 2)) == 2


def test_an_endless_report_is_cut() -> None:
    (splat,) = find_splats("BUG: KASAN: bad\n" + " frame+0x1/0x2\n" * 200)
    assert len(splat.text.splitlines()) == EXCERPT_LINES


def test_what_belongs_to_a_report_only_shortly_after_it() -> None:
    """A WARN long after a refcount message is another report."""
    text = (
        "refcount_t: underflow\n" + "\n" * EXCERPT_LINES + "WARNING: CPU: 1 PID: 2 at a.c:1 f+0x1\n"
    )
    assert [kind for kind, _ in told(text)] == ["bug", "warn"]


def test_an_empty_log_has_none() -> None:
    assert find_splats("") == []
