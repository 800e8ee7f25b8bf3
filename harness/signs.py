"""What a running kernel shows of its configuration, where nothing else tells it.

A kernel file by itself says little. Without this, what it was not built with would look like what
it does wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.kernels.examine import options_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.guest import Guest

SIGNS = {
    "ACPI_HOTPLUG_CPU": ("/proc/kallsyms", "acpi_map_cpu"),
    "DEBUG_KMEMLEAK": ("/sys/kernel/debug/kmemleak", ""),
    "DYNAMIC_FTRACE": ("/sys/kernel/tracing/available_filter_functions", ""),
    "FAILSLAB": ("/sys/kernel/debug/failslab", ""),
    "FAIL_PAGE_ALLOC": ("/sys/kernel/debug/fail_page_alloc", ""),
    "FAULT_INJECTION_STACKTRACE_FILTER": ("/sys/kernel/debug/failslab/require-start", ""),
    "HOTPLUG_CPU": ("/sys/devices/system/cpu/hotplug/states", ""),
    "HOTPLUG_PCI_ACPI": ("/proc/kallsyms", "acpiphp_enumerate_slots"),
    "MEMBARRIER": ("/proc/kallsyms", "membarrier_exec_mmap"),
    "MEMCG": ("/proc/kallsyms", "mem_cgroup_from_task"),
    "NET_NS": ("/proc/self/ns/net", ""),
    "NUMA": ("/sys/devices/system/node", ""),
    "PREEMPT_RT": ("/proc/version", "PREEMPT_RT"),
    "SLUB_DEBUG": ("/sys/kernel/slab/kmalloc-64/total_objects", ""),
    "TASKS_RCU": ("/proc/kallsyms", "call_rcu_tasks"),
}
"""By option, the file that is there, and the word that is in it (if any), where it is set, and only
there, on every kernel from 5.10 to 7.3."""


def why_not_there(guest: Guest, names: Iterable[str]) -> str | None:
    """Return why what takes these options is not run in a guest; None if it can be tried.

    A kernel whose configuration is known is not asked: it was before it was booted.
    """
    wanted = list(names)
    if not wanted or options_in(guest.machine.kernel) is not None:
        return None
    absent = [name for name in wanted if not shows(guest, name)]
    if not absent:
        return None
    options = ", ".join(f"CONFIG_{name}" for name in absent)
    release = guest.machine.kernel.release
    return f"{release} shows no sign of {options}; config-{release} beside it would tell"


def shows(guest: Guest, name: str) -> bool:
    """Return whether a running kernel shows that it was built with an option.

    What has no sign is not shown by any: it would take the configuration to tell.
    """
    if name not in SIGNS:
        return False
    path, word = SIGNS[name]
    if word:
        return word in guest.read(path).split()
    return guest.calls.raw("access", f"{path}\0".encode(), 0).errno == 0
