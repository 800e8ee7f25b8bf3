"""What bpf(2) checks before it comes to the cpumap, and commands that never do.

kernel/bpf/syscall.c, as far as a cpumap is concerned.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.model import gates
from harness.model.control import (
    BPF_F_LOCK,
    BPF_F_NUMA_NODE,
    CpuMap,
    CpumapVal,
    MapAttr,
    cpu_map_alloc,
)
from harness.model.facts import ENOTSUPP

if TYPE_CHECKING:
    from harness.model.facts import Facts

BPF_F_RDONLY, BPF_F_WRONLY = 1 << 3, 1 << 4
NUMA_NO_NODE = 0xFFFFFFFF
PERCPU_FLAGS = 0xFFFFFFFF_00000018
"""BPF_F_CPU, BPF_F_ALL_CPUS and the CPU number above them, in the flags of an update."""


@dataclass(frozen=True, slots=True)
class Task:
    """Who asks.

    Attributes:
        cap_bpf: it has CAP_BPF or CAP_SYS_ADMIN.
        memlock: bytes that RLIMIT_MEMLOCK leaves to it; None is no limit.
    """

    cap_bpf: bool = True
    memlock: int | None = None


@dataclass(slots=True)
class MapFile:
    """An open descriptor of a map, and what it may be used for.

    Attributes:
        map: the map.
        flags: BPF_F_RDONLY or BPF_F_WRONLY.
    """

    map: CpuMap
    flags: int = 0

    @property
    def may_write(self) -> bool:
        """FMODE_CAN_WRITE, as map_get_sys_perms sees it."""
        return not self.flags & BPF_F_RDONLY and not self.map.frozen

    @property
    def may_read(self) -> bool:
        """FMODE_CAN_READ."""
        return not self.flags & BPF_F_WRONLY

    def map_update_elem(self, key: int | None, value: CpumapVal | None, flags: int = 0) -> int:
        """BPF_MAP_UPDATE_ELEM; None is a bad pointer."""
        if not self.may_write:
            return errno.EPERM
        early = gates.FLAGS_BEFORE_POINTERS.holds(self.map.facts.kernel)
        if flags & BPF_F_LOCK or (early and flags & PERCPU_FLAGS):
            return errno.EINVAL
        if key is None or value is None:
            return errno.EFAULT
        return self.map.cpu_map_update_elem(key, value, flags)

    def map_delete_elem(self, key: int | None) -> int:
        """BPF_MAP_DELETE_ELEM."""
        if not self.may_write:
            return errno.EPERM
        return errno.EFAULT if key is None else self.map.cpu_map_delete_elem(key)

    def map_lookup_elem(
        self, key: int | None, flags: int = 0
    ) -> tuple[int, tuple[int, int] | None]:
        """BPF_MAP_LOOKUP_ELEM: errno, and qsize with program id."""
        early = not gates.RIGHTS_BEFORE_FLAGS.holds(self.map.facts.kernel)
        if early and flags & ~BPF_F_LOCK:
            return errno.EINVAL, None
        if not self.may_read:
            return errno.EPERM, None
        if flags:
            return errno.EINVAL, None
        if key is None:
            return errno.EFAULT, None
        value = self.map.cpu_map_lookup_elem(key)
        return (0 if value else errno.ENOENT), value

    def map_get_next_key(self, key: int | None) -> tuple[int, int]:
        """BPF_MAP_GET_NEXT_KEY: errno, and the next key; None asks for the first."""
        if not self.may_read:
            return errno.EPERM, 0
        return self.map.cpu_map_get_next_key(key)

    def map_freeze(self) -> int:
        """BPF_MAP_FREEZE."""
        if gates.FREEZE_ASKS_RIGHTS.holds(self.map.facts.kernel) and not self.may_write:
            return errno.EPERM
        if self.map.frozen:
            return errno.EBUSY
        self.map.frozen = True
        return 0

    def bpf_map_do_batch(self, *, reads: bool, writes: bool) -> int:
        """BPF_MAP_*_BATCH and BPF_MAP_LOOKUP_AND_DELETE_ELEM: a cpumap has none of them."""
        if (reads and not self.may_read) or (writes and not self.may_write):
            return errno.EPERM
        return ENOTSUPP

    def bpf_map_mmap(self) -> int:
        """Answer for a read-only mmap(2): a cpumap has no memory of user space's.

        A descriptor that may not be read is refused before it comes to the map (mm/mmap.c).
        """
        return ENOTSUPP if self.may_read else errno.EACCES


def map_create(facts: Facts, attr: MapAttr, task: Task | None = None) -> tuple[int, MapFile | None]:
    """BPF_MAP_CREATE of a cpumap: errno, and the map's descriptor."""
    task = task or Task()
    refused = not task.cap_bpf and facts.unprivileged_bpf_disabled
    if refused and not gates.RIGHTS_CHECKED_IN_CREATE.holds(facts.kernel):
        return errno.EPERM, None
    node_asked = attr.map_flags & BPF_F_NUMA_NODE
    if attr.map_extra or (node_asked and attr.numa_node not in {*facts.nodes, NUMA_NO_NODE}):
        return errno.EINVAL, None
    if not task.cap_bpf:
        return errno.EPERM, None
    if attr.map_ifindex:  # only hash tables and arrays are offloaded
        return errno.EINVAL, None
    answer, made = cpu_map_alloc(facts, attr, memlock=task.memlock)
    if made is None:
        return answer, None
    if attr.btf:  # map_check_no_btf
        return ENOTSUPP, None
    return 0, MapFile(made)


def map_use(facts: Facts, task: Task) -> int:
    """Answer for any command on a descriptor that a task was given."""
    if task.cap_bpf or not facts.unprivileged_bpf_disabled:
        return 0
    return 0 if gates.DESCRIPTOR_SUFFICES.holds(facts.kernel) else errno.EPERM


def array_of_maps_update(outer_of: MapAttr, inner: MapAttr) -> int:
    """Answer for putting a cpumap into a map of maps made after another (bpf_map_meta_equal)."""
    same = (inner.key_size, inner.value_size, inner.map_flags) == (
        outer_of.key_size,
        outer_of.value_size,
        outer_of.map_flags,
    )
    return 0 if same else errno.EINVAL
