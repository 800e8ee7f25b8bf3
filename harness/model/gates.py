"""Since which version a kernel behaves how: the one table of it.

A gate holds from `since` on, and in older series from the stable release that took the change.
"Booted" names the kernels on which the cases have seen either side of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """One change of behaviour.

    Attributes:
        what: how a kernel behaves where the gate holds.
        since: first version in which it holds.
        source: commit that brought it, by subject or hash.
        evidence: how that is known.
        backports: stable releases that took the commit, one per series.
    """

    what: str
    since: tuple[int, ...]
    source: str
    evidence: str
    backports: tuple[tuple[int, int, int], ...] = ()

    def holds(self, kernel: tuple[int, ...]) -> bool:
        """Return whether a kernel of these version numbers has it."""
        if kernel >= self.since:
            return True
        return any(kernel[:2] == fix[:2] and kernel >= fix for fix in self.backports)


# -- the control plane

MEMORY_BY_MEMCG = Gate(
    "a map is charged to its memory cgroup, not to RLIMIT_MEMLOCK",
    (5, 11),
    "bpf: Eliminate rlimit-based memory accounting for cpumap maps",
    "booted: 5.10 without, 6.1 with",
)
CHARGED_APART = Gate(
    "memory charged to a cgroup is of caches of its own, kmalloc-cg-*",
    (5, 14),
    "494c1dfe855e, mm: memcg/slab: create a new set of kmalloc-cg-<n> caches",
    "booted: 5.10 without, 6.1 with",
)
STACK_KNOWS_CPUMAP_GENERIC = Gate(
    "generic XDP redirects into a cpumap, and a program that uses one with programs may attach",
    (5, 15),
    "11941f8a8536, bpf: cpumap: Implement generic cpumap",
    "booted: 5.10 without, 6.1 with",
)
FRAGS = Gate(
    "XDP programs may be loaded with BPF_F_XDP_HAS_FRAGS, and a map is of one kind of them",
    (5, 18),
    "bpf: introduce BPF_F_XDP_HAS_FRAGS; f45d5b6ce2e8, bpf: generalise tail call map "
    "compatibility check",
    "booted: 5.10 without, 6.1 with",
)
DESCRIPTOR_SUFFICES = Gate(
    "with kernel.unprivileged_bpf_disabled set, a task without CAP_BPF may use a map's descriptor",
    (5, 19),
    "bpf: refine kernel.unprivileged_bpf_disabled behaviour",
    "booted: 5.10 without, 6.1 with",
)
MEM_USAGE = Gate(
    "fdinfo's memlock is what cpu_map_mem_usage says, not an estimate in pages",
    (6, 4),
    "bpf, cpumap: memory usage: cpu_map_mem_usage appears",
    "booted: 6.1 without, 6.12 with",
)
RIGHTS_CHECKED_IN_CREATE = Gate(
    "a malformed BPF_MAP_CREATE is EINVAL before a missing right is EPERM",
    (6, 4),
    "bpf: move unprivileged checks into map_create() and bpf_prog_load()",
    "booted: 6.1 without, 6.12 with",
)
DEV_BOUND = Gate(
    "XDP programs may be bound to a device (BPF_F_XDP_DEV_BOUND_ONLY)",
    (6, 3),
    "bpf: Introduce device-bound XDP programs",
    "booted: 6.1 without, 6.12 with",
)
DEV_BOUND_REDIRECTOR = Gate(
    "a program bound to a device may redirect into a cpumap",
    (6, 16),
    "714070c4cb7a, bpf: Allow XDP dev-bound programs to perform XDP_REDIRECT into maps",
    "booted: 6.12.117 and 6.16 with",
    ((6, 12, 35),),
)
FREEZE_ASKS_RIGHTS = Gate(
    "BPF_MAP_FREEZE asks for the right to write, which a frozen map gives nobody",
    (6, 5),
    "bpf: drop unnecessary bpf_capable() check in BPF_MAP_FREEZE command",
    "booted: 6.1 without, 6.12 with",
)
PROGRAM_ERRNO = Gate(
    "an update refuses a bad program with its own errno, not with ENOMEM",
    (7, 0),
    "48e11bad9a1f, bpf: cpumap: propagate underlying error in cpu_map_update_elem()",
    "booted: 6.18 without, 7.2 with",
)
FLAGS_BEFORE_POINTERS = Gate(
    "an update with flags for per-CPU maps is EINVAL before a bad pointer is EFAULT",
    (7, 0),
    "bpf: Introduce BPF_F_CPU and BPF_F_ALL_CPUS flags (bpf_map_check_op_flags)",
    "booted: 6.18 without, 7.2 with",
)
RIGHTS_BEFORE_FLAGS = Gate(
    "a lookup without the right to read is EPERM before unknown flags are EINVAL",
    (7, 0),
    "bpf: Introduce BPF_F_CPU and BPF_F_ALL_CPUS flags (bpf_map_check_op_flags)",
    "booted: 6.18 without, 7.2 with",
)

# -- the data path

LIST_DELIVERY = Gate(
    "the kthread hands the stack a list, and does not count what the stack drops",
    (5, 13),
    "bb0247807744, bpf: cpumap: implement bulk receive",
    "booted: 5.10 without, 6.1 with",
)
UPDATE_WAITS = Gate(
    "an update returns when its new kthread has run",
    (6, 5),
    "640a604585aa, bpf, cpumap: Make sure kthread is running before map update returns",
    "booted: 5.10 without, 6.1.192 with",
    ((6, 1, 45), (6, 4, 10)),
)
LIVE_FRAMES = Gate(
    "BPF_PROG_TEST_RUN makes frames that go where the program sends them",
    (5, 18),
    'b530e9e1063e, bpf: Add "live packet" mode for XDP in BPF_PROG_RUN',
    "booted: 5.10 without, 6.1 with",
)
TRACED_BEFORE_STACK = Gate(
    "xdp_cpumap_kthread is traced before the stack receives",
    (6, 12),
    "23dc9867329c, bpf, cpumap: Move xdp:xdp_cpumap_kthread tracepoint before rcv",
    "booted: 6.1 without, 7.3 with",
)
GRO = Gate(
    "the kthread delivers through GRO: frames first, then skbs, each skb run through the program",
    (6, 15),
    "4f8ab26a034f, 57efe762cd3c, bpf: cpumap: switch to GRO, reuse skb array",
    "booted: 6.1 without, 7.3 with",
)
SEVERAL_BUFFERS = Gate(
    "virtio-net gives XDP programs frames that lie in several buffers",
    (6, 3),
    "fab89bafa95b, virtio-net: support multi-buffer xdp",
    "read: 6.1, 6.12",
)
SKB_BUILT_BY_XDP = Gate(
    "net/core/xdp.c makes skbs of frames, not cpumap.c",
    (5, 12),
    "97a0e1ea7b41, net, xdp: Introduce __xdp_build_skb_from_frame utility routine",
    "read: 5.10, 6.1",
)
ENTRY_WORK = Gate(
    "an entry is freed by one work after a grace period; it has no references",
    (6, 6),
    "8f8500a247c9, bpf, cpumap: Use queue_rcu_work() to remove unnecessary rcu_barrier()",
    "read: 6.1, 6.12",
)
FLUSH_LISTS_ON_STACK = Gate(
    "a NAPI poll has its own list of bulk queues to flush, not its CPU",
    (6, 11),
    "3f9fe37d9e16, net: Move per-CPU flush-lists to bpf_net_context on PREEMPT_RT",
    "read: 6.1, 6.12",
)
PREEMPTIBLE_SOFTIRQS = Gate(
    "under PREEMPT_RT tasks may preempt each other with softirqs off, and share their CPU's bulk "
    "queues",
    (6, 18),
    "3253cb49cbad, softirq: Allow to drop the softirq-BKL lock on PREEMPT_RT",
    "booted: 7.3-rt with",
)
FULL_COMM = Gate(
    "a kthread's whole name stands in /proc, not its first 15 characters",
    (5, 17),
    "d6986ce24fc0, kthread: dynamically allocate memory to store kthread's full name",
    "booted: 5.10 without, 6.1 with",
)
EVERY_SKB_RUN = Gate(
    "an entry's program runs on every skb of a batch, not only up to the first that does not pass",
    (6, 15),
    "57efe762cd3c, xdp, cpumap: reuse skb array instead of a linked list to chain skbs",
    "booted: 6.1, 6.12 without, 6.16 to 7.3 with",
)
BUSY_KTHREAD_REPORTS = Gate(
    "a kthread that never sleeps tells RCU of its quiescent states, but under PREEMPT_RT",
    (6, 9),
    "00bf63122459, bpf: report RCU QS in cpumap kthread",
    "booted: 6.1.192 to 7.3 with, 7.3-rt without",
    ((5, 10, 215), (5, 15, 154), (6, 1, 84), (6, 6, 24), (6, 7, 12), (6, 8, 3)),
)
FRAME_EXCEPTIONS = Gate(
    "XDP_ABORTED and unknown actions of an entry's program on a frame are traced as exceptions",
    (7, 2),
    "unknown; after 6.18, perhaps as early as 7.0",
    "booted: 6.18 without, 7.2 with",
)

# -- the scheduler under it

FAIR_SERVER = Gate(
    "tasks of the fair class get a twentieth of a CPU that others would keep for themselves",
    (6, 12),
    "sched/fair: Add trivial fair server",
    "booted: 6.1 without, 6.12 with",
)
DEAD_CPUS_PULL_NONE = Gate(
    "a CPU that goes offline pulls no real-time tasks that wait on others",
    (5, 11),
    "120455c514f7, sched: Fix hotplug vs CPU bandwidth control (need_pull_rt_task asks rq->online)",
    "booted: 5.10.262 without (WARNING in set_task_cpu), 6.12, 7.3 with",
)
