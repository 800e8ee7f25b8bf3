"""The control plane of kernel/bpf/cpumap.c: maps, entries, and who may be in them."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from harness.model import gates

if TYPE_CHECKING:
    from harness.model.facts import Facts

BPF_ANY, BPF_NOEXIST, BPF_EXIST, BPF_F_LOCK = 0, 1, 2, 4
BPF_F_NUMA_NODE = 1 << 2
QSIZE_MAX = 16384
KEY_MASK = 0xFFFFFFFF
COMM_BYTES = 15
"""What TASK_COMM_LEN leaves of a kthread's name."""
XDP, BPF_XDP, BPF_XDP_CPUMAP = 6, 37, 35
"""BPF_PROG_TYPE_XDP and two of its expected attach types (include/uapi/linux/bpf.h)."""
XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)


@dataclass(frozen=True, slots=True)
class MapAttr:
    """What BPF_MAP_CREATE is asked for."""

    key_size: int = 4
    value_size: int = 8
    max_entries: int = 4
    map_flags: int = 0
    numa_node: int = 0
    map_ifindex: int = 0
    map_extra: int = 0
    btf: bool = False


@dataclass(frozen=True, slots=True)
class Prog:
    """What a program's descriptor leads to.

    Attributes:
        id: its id in the system.
        type: `enum bpf_prog_type`.
        expected_attach_type: `enum bpf_attach_type`.
        frags: loaded with BPF_F_XDP_HAS_FRAGS.
        dev_bound: loaded with BPF_F_XDP_DEV_BOUND_ONLY.
        jited: translated to machine code.
    """

    id: int
    type: int = XDP
    expected_attach_type: int = BPF_XDP_CPUMAP
    frags: bool = False
    dev_bound: bool = False
    jited: bool = True


@dataclass(frozen=True, slots=True)
class NotProg:
    """A descriptor, above 0, that leads to no program: closed, or something else."""

    open: bool


@dataclass(frozen=True, slots=True)
class CpumapVal:
    """`struct bpf_cpumap_val`.

    Attributes:
        qsize: frames that the entry's ring holds.
        prog: what the descriptor leads to; None for 0 and for any negative one, which the kernel
            does not look at.
    """

    qsize: int
    prog: Prog | NotProg | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A `struct bpf_cpu_map_entry`: each update makes a new one."""

    cpu: int
    map_id: int
    qsize: int
    prog: Prog | None = None
    number: int = field(default_factory=count().__next__)

    def comm(self, kernel: tuple[int, ...]) -> str:
        """Return the name that procfs has for its kthread."""
        name = f"cpumap/{self.cpu}/map:{self.map_id}"
        return name if gates.FULL_COMM.holds(kernel) else name[:COMM_BYTES]


@dataclass(slots=True)
class CpuMap:
    """A `struct bpf_cpu_map`; methods answer as the functions of their names.

    Attributes:
        facts: the guest.
        attr: as it was created.
        map_id: its id in the system.
        entries: by key.
        owner: what its programs must be like: jited, frags; None while there was none.
        frozen: user space has given up the right to write.
    """

    facts: Facts
    attr: MapAttr
    map_id: int = 1
    entries: dict[int, Entry] = field(default_factory=dict)
    owner: tuple[bool, bool] | None = None
    frozen: bool = False

    def cpu_map_update_elem(self, key: int, value: CpumapVal, map_flags: int = 0) -> int:
        """Make, replace or (qsize 0) delete an entry; a failure leaves the old one alone."""
        if map_flags > BPF_EXIST:
            return errno.EINVAL
        if key >= self.attr.max_entries:
            return errno.E2BIG
        if map_flags == BPF_NOEXIST:
            return errno.EEXIST  # whether there is an entry or not: "the array" is always full
        if value.qsize > QSIZE_MAX:
            return errno.EOVERFLOW
        if key not in self.facts.possible:
            return errno.ENODEV
        if value.qsize == 0:
            self.entries.pop(key, None)
            return 0
        answer, entry = self.cpu_map_entry_alloc(key, value)
        if entry:
            self.entries[key] = entry
        return answer

    def cpu_map_entry_alloc(self, key: int, value: CpumapVal) -> tuple[int, Entry | None]:
        """Return a new entry, or why there is none."""
        prog = value.prog if self.attr.value_size == 8 else None
        if prog is None:
            return 0, Entry(key, self.map_id, value.qsize)
        answer = self.cpu_map_load_bpf_program(prog)
        if isinstance(prog, NotProg) or answer:
            known = gates.PROGRAM_ERRNO.holds(self.facts.kernel)
            return (answer if known else errno.ENOMEM), None
        return 0, Entry(key, self.map_id, value.qsize, prog)

    def cpu_map_load_bpf_program(self, prog: Prog | NotProg) -> int:
        """Say whether a descriptor's program may be in an entry of this map."""
        if isinstance(prog, NotProg):
            return errno.EINVAL if prog.open else errno.EBADF
        if prog.type != XDP or prog.expected_attach_type != BPF_XDP_CPUMAP:
            return errno.EINVAL
        return 0 if self.bpf_prog_map_compatible(prog) else errno.EINVAL

    def bpf_prog_map_compatible(self, prog: Prog) -> bool:
        """Say whether a program may be in this map (kernel/bpf/core.c).

        The first program that asks decides, for ever, what all later ones must be like.
        """
        return not prog.dev_bound and self._owns(prog)

    def bpf_prog_load_uses(self, prog: Prog) -> int:
        """Answer for loading a program that redirects into this map (bpf_check_tail_call).

        A program that redirects is asked as one in an entry is, whatever the value size.
        """
        bound_may = gates.DEV_BOUND_REDIRECTOR.holds(self.facts.kernel)
        if prog.dev_bound and not bound_may:
            return errno.EINVAL
        return 0 if self._owns(prog) else errno.EINVAL

    def _owns(self, prog: Prog) -> bool:
        if not gates.FRAGS.holds(self.facts.kernel):
            return True
        kind = (prog.jited, prog.frags)
        self.owner = self.owner or kind
        return self.owner == kind

    def cpu_map_delete_elem(self, key: int) -> int:
        """Delete an entry, whether there is one or not."""
        if key >= self.attr.max_entries:
            return errno.EINVAL
        self.entries.pop(key, None)
        return 0

    def cpu_map_lookup_elem(self, key: int) -> tuple[int, int] | None:
        """Return qsize and program id of an entry, None if there is no such entry."""
        entry = self.entries.get(key & KEY_MASK)
        if entry is None:
            return None
        return entry.qsize, entry.prog.id if entry.prog else 0

    def cpu_map_get_next_key(self, key: int | None) -> tuple[int, int]:
        """Return errno and the next key: all keys in turn, with an entry or without."""
        if key is None or key >= self.attr.max_entries:
            return 0, 0
        if key == self.attr.max_entries - 1:
            return errno.ENOENT, 0
        return 0, key + 1

    def cpu_map_redirect(self, index: int, flags: int = 0) -> int:
        """Return the action that bpf_redirect_map answers; its key counts to 32 bits."""
        if flags > XDP_TX:
            return XDP_ABORTED
        return flags if self.cpu_map_lookup_elem(index) is None else XDP_REDIRECT

    def cpu_map_mem_usage(self) -> int:
        """Return fdinfo's `memlock`; entries and their rings never count."""
        page, entries = self.facts.page_bytes, self.attr.max_entries
        if gates.MEM_USAGE.holds(self.facts.kernel):
            return self.facts.map_bytes + entries * 8
        each = 8
        if gates.MEMORY_BY_MEMCG.holds(self.facts.kernel):  # bpf_map_memory_footprint
            each = -(-(self.attr.key_size + self.attr.value_size) // 8) * 8
        return -(-entries * each // page) * page

    def dev_xdp_install(self, *, generic: bool) -> int:
        """Answer for attaching a program that uses this map to a device (net/core/dev.c)."""
        known = gates.STACK_KNOWS_CPUMAP_GENERIC.holds(self.facts.kernel)
        if generic and self.attr.value_size == 8 and not known:  # cpu_map_prog_allowed
            return errno.EINVAL
        return 0

    @property
    def kthreads(self) -> list[str]:
        """Names of the kthreads that its entries have."""
        return sorted(entry.comm(self.facts.kernel) for entry in self.entries.values())


def cpu_map_alloc(
    facts: Facts, attr: MapAttr, *, memlock: int | None = None
) -> tuple[int, CpuMap | None]:
    """Return a map, or why there is none.

    Args:
        facts: the guest.
        attr: what is asked for.
        memlock: bytes that RLIMIT_MEMLOCK leaves to the task; None is no limit.
    """
    if (
        attr.max_entries == 0
        or attr.key_size != 4
        or attr.value_size not in {4, 8}
        or attr.map_flags & ~BPF_F_NUMA_NODE
    ):
        return errno.EINVAL, None
    if attr.max_entries > facts.nr_cpus:
        return errno.E2BIG, None
    made = CpuMap(facts, attr)
    charged = not gates.MEMORY_BY_MEMCG.holds(facts.kernel)
    if charged and memlock is not None and made.cpu_map_mem_usage() > memlock:
        return errno.EPERM, None
    return 0, made
