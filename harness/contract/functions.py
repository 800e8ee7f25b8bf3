"""The functions of kernel/bpf/cpumap.c, from 5.10 to 7.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.model import gates

if TYPE_CHECKING:
    from harness.model.gates import Gate


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the file.

    Attributes:
        since: where it came, with all that it does; None if 5.10 has it.
        until: where it went.
        formerly: what did the same before it came, or before it had its name: its behaviours hold
            there, too.
    """

    since: Gate | None = None
    until: Gate | None = None
    formerly: str = ""


GENERIC, ENTRY_WORK = gates.STACK_KNOWS_CPUMAP_GENERIC, gates.ENTRY_WORK

FUNCTIONS = {
    "cpu_map_alloc": Function(),
    "get_cpu_map_entry": Function(until=ENTRY_WORK),
    "__cpu_map_ring_cleanup": Function(),
    "put_cpu_map_entry": Function(until=ENTRY_WORK),
    "cpu_map_kthread_stop": Function(until=ENTRY_WORK),
    "cpu_map_build_skb": Function(until=gates.SKB_BUILT_BY_XDP),
    "cpu_map_bpf_prog_run_skb": Function(since=GENERIC),
    "cpu_map_bpf_prog_run_xdp": Function(),
    "cpu_map_bpf_prog_run": Function(formerly="in `cpu_map_kthread_run` (5.10)"),
    "cpu_map_gro_flush": Function(since=gates.GRO),
    "cpu_map_kthread_run": Function(),
    "cpu_map_prog_allowed": Function(until=GENERIC),
    "__cpu_map_load_bpf_program": Function(),
    "__cpu_map_entry_alloc": Function(),
    "__cpu_map_entry_free": Function(),
    "__cpu_map_entry_replace": Function(),
    "cpu_map_delete_elem": Function(),
    "cpu_map_update_elem": Function(),
    "cpu_map_free": Function(),
    "__cpu_map_lookup_elem": Function(),
    "cpu_map_lookup_elem": Function(),
    "cpu_map_get_next_key": Function(),
    "cpu_map_redirect": Function(formerly="`bpf_xdp_redirect_map` of net/core/filter.c (5.10)"),
    "cpu_map_mem_usage": Function(formerly="estimated by kernel/bpf/syscall.c (before 6.4)"),
    "cpu_map_ops": Function(),
    "bq_flush_to_queue": Function(),
    "bq_enqueue": Function(),
    "cpu_map_enqueue": Function(),
    "cpu_map_generic_redirect": Function(since=GENERIC),
    "__cpu_map_flush": Function(),
    "cpu_map_init": Function(until=gates.FLUSH_LISTS_ON_STACK),
}
"""In the order of the file. `cpu_map_ops` is no function but says which operations there are."""
