"""bpf(2) in the guest: maps, programs and links as objects.

Layouts of `union bpf_attr`, the info structures and constants are those of
include/uapi/linux/bpf.h, stable since each appeared.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from harness.agent import insns
from harness.agent.syscalls import Buffer, Result, Started, Syscalls

if TYPE_CHECKING:
    from collections.abc import Mapping

MAP_CREATE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM, MAP_GET_NEXT_KEY = range(5)
PROG_LOAD, OBJ_PIN, OBJ_GET = 5, 6, 7
PROG_TEST_RUN = 10
PROG_GET_NEXT_ID, MAP_GET_NEXT_ID = 11, 12
PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD = 13, 14, 15
BTF_LOAD = 18
BTF_GET_NEXT_ID, LINK_GET_NEXT_ID = 23, 31
MAP_LOOKUP_AND_DELETE_ELEM, MAP_FREEZE = 21, 22
MAP_LOOKUP_BATCH, MAP_LOOKUP_AND_DELETE_BATCH, MAP_UPDATE_BATCH, MAP_DELETE_BATCH = range(24, 28)
LINK_CREATE, LINK_DETACH = 28, 34
MAP_TYPE_ARRAY_OF_MAPS, MAP_TYPE_HASH_OF_MAPS, MAP_TYPE_CPUMAP = 12, 13, 16
ATTACH_XDP = 37
XDP_MODES = {"generic": 1 << 1, "native": 1 << 2}
"""XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE."""
PROG_TYPE_SOCKET_FILTER, PROG_TYPE_XDP = 1, 6
ATTACH_XDP_DEVMAP, ATTACH_XDP_CPUMAP = 33, 35
F_XDP_HAS_FRAGS, F_XDP_DEV_BOUND_ONLY = 1 << 5, 1 << 6
F_TEST_XDP_LIVE_FRAMES = 1 << 1
ENOENT = 2
ATTR_BYTES = 128
INFO_BYTES = 256
LOG_BYTES = 1 << 14


def bpf(
    calls: Syscalls, command: int, front: bytes, pointers: Mapping[int, Buffer] | None = None
) -> Result:
    """Run one BPF command.

    Args:
        calls: where.
        command: `enum bpf_cmd`.
        front: the first bytes of `union bpf_attr`; the rest is zero.
        pointers: buffers whose address goes to an offset of it.
    """
    return calls.collect(start_bpf(calls, command, front, pointers))


def start_bpf(
    calls: Syscalls, command: int, front: bytes, pointers: Mapping[int, Buffer] | None = None
) -> Started:
    """Start a BPF command that may block; arguments as for `bpf`."""
    union = Buffer(front.ljust(ATTR_BYTES, b"\0"), pointers=pointers or {})
    return calls.start("bpf", command, union, ATTR_BYTES)


class Descriptor:
    """A descriptor of the agent's that stands for a BPF object.

    Attributes:
        calls: the agent that holds it.
        fd: its number there.
    """

    def __init__(self, calls: Syscalls, fd: int) -> None:
        self.calls = calls
        self.fd = fd

    def close(self) -> None:
        """Close the descriptor; the object lives on while others refer to it.

        Raises:
            GuestError: it is closed already.
        """
        self.calls.must("close", self.fd)

    def info(self) -> bytes:
        """Return the object's `struct bpf_map_info`, `bpf_prog_info` or `bpf_link_info`.

        Raises:
            GuestError: it is no BPF object.
        """
        info = Buffer(INFO_BYTES, returned=True)
        result = bpf(
            self.calls, OBJ_GET_INFO_BY_FD, struct.pack("<II", self.fd, INFO_BYTES), {8: info}
        )
        result.must("BPF_OBJ_GET_INFO_BY_FD")
        return info.content


class Program(Descriptor):
    """A loaded program."""

    @property
    def id(self) -> int:
        """Its id in the system."""
        return int(struct.unpack_from("<I", self.info(), 4)[0])


class Link(Descriptor):
    """A program attached to an interface; closing the last descriptor detaches it."""

    def detach(self) -> None:
        """BPF_LINK_DETACH: detach the program, whoever has descriptors of the link.

        Raises:
            GuestError: the kernel refuses it.
        """
        bpf(self.calls, LINK_DETACH, struct.pack("<I", self.fd)).must("BPF_LINK_DETACH")


class Map(Descriptor):
    """A map.

    Attributes:
        key_size: bytes of a key.
        value_size: bytes of a value.
        max_entries: as it was created.
    """

    def __init__(
        self, calls: Syscalls, fd: int, *, key_size: int, value_size: int, max_entries: int
    ) -> None:
        super().__init__(calls, fd)
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries

    @classmethod
    def of(cls, calls: Syscalls, fd: int) -> Map:
        """Return the map behind a descriptor; its sizes are asked of the guest.

        Raises:
            GuestError: it is no map.
        """
        info = Descriptor(calls, fd).info()
        key_size, value_size, max_entries = struct.unpack_from("<III", info, 8)
        return Map(calls, fd, key_size=key_size, value_size=value_size, max_entries=max_entries)

    @property
    def id(self) -> int:
        """Its id in the system: the `map_id` of tracepoints."""
        return int(struct.unpack_from("<I", self.info(), 4)[0])

    def update(self, key: int, value: bytes, flags: int = 0) -> Result:
        """BPF_MAP_UPDATE_ELEM: return what the kernel answers, success or not."""
        return self.calls.collect(self.start_update(key, value, flags))

    def start_update(
        self, key: int, value: bytes, flags: int = 0, calls: Syscalls | None = None
    ) -> Started:
        """Start an update that may block, in another task of the agent's if `calls` says so."""
        memory = {8: Buffer(self._key(key)), 16: Buffer(value)}
        front = struct.pack("<IIQQQ", self.fd, 0, 0, 0, flags)
        return start_bpf(calls or self.calls, MAP_UPDATE_ELEM, front, memory)

    def delete(self, key: int) -> Result:
        """BPF_MAP_DELETE_ELEM: return what the kernel answers, success or not."""
        memory = {8: Buffer(self._key(key))}
        return bpf(self.calls, MAP_DELETE_ELEM, struct.pack("<I", self.fd), memory)

    def lookup(self, key: int, *, size: int | None = None) -> tuple[Result, bytes]:
        """BPF_MAP_LOOKUP_ELEM: return what the kernel answers, and the value.

        Args:
            key: the key.
            size: bytes that the kernel writes, if not one value (per-CPU maps).
        """
        value = Buffer(size or self.value_size, returned=True)
        memory = {8: Buffer(self._key(key)), 16: value}
        result = bpf(self.calls, MAP_LOOKUP_ELEM, struct.pack("<I", self.fd), memory)
        return result, value.content

    def read_first(self, count: int) -> bytes:
        """Return the first `count` values of an array, end to end (BPF_MAP_LOOKUP_BATCH, 5.6).

        Raises:
            GuestError: the map has no batch operations.
        """
        if count == 0:
            return b""
        values = Buffer(count * self.value_size, returned=True)
        cursor, keys = Buffer(4), Buffer(count * self.key_size)
        # in_batch 0: from the start; the kernel writes where it stopped to out_batch
        front = struct.pack("<QQQQII", 0, 0, 0, 0, count, self.fd)
        memory = {8: cursor, 16: keys, 24: values}
        bpf(self.calls, MAP_LOOKUP_BATCH, front, memory).must("BPF_MAP_LOOKUP_BATCH")
        return values.content

    def per_cpu(self, cpus: int) -> list[tuple[int, ...]]:
        """Return the integers of a per-CPU array of one element, by CPU.

        Args:
            cpus: possible CPUs of the guest; each has its own value, of integers of 8 bytes.
        """
        result, values = self.lookup(0, size=self.value_size * cpus)
        result.must("lookup of a per-CPU element")
        return list(struct.iter_unpack(f"<{self.value_size // 8}Q", values))

    def sum_over_cpus(self, cpus: int) -> tuple[int, ...]:
        """Return the sum of each integer of `per_cpu`."""
        return tuple(map(sum, zip(*self.per_cpu(cpus), strict=True)))

    def _key(self, key: int) -> bytes:
        return key.to_bytes(self.key_size, "little")


def create_map(
    calls: Syscalls,
    *,
    max_entries: int,
    type: int = MAP_TYPE_CPUMAP,
    key_size: int = 4,
    value_size: int = 8,
    flags: int = 0,
    inner_fd: int = 0,
    numa_node: int = 0,
    name: str = "",
    ifindex: int = 0,
    btf: tuple[int, int, int] = (0, 0, 0),
    extra: int = 0,
) -> Result:
    """BPF_MAP_CREATE: return what the kernel answers; its value is the descriptor.

    Args:
        calls: the agent.
        max_entries: as all the others, a field of `union bpf_attr`.
        type: `enum bpf_map_type`.
        key_size: bytes of a key.
        value_size: bytes of a value.
        flags: `map_flags`.
        inner_fd: the map that inner maps must be like.
        numa_node: heeded with BPF_F_NUMA_NODE.
        name: 15 characters at most.
        ifindex: the device to offload to.
        btf: descriptor, type of the key, type of the value.
        extra: `map_extra`.
    """
    front = struct.pack("<7I16s5IQ", type, key_size, value_size, max_entries, flags, inner_fd,
                        numa_node, name.encode(), ifindex, *btf, 0, extra)  # fmt: skip
    return bpf(calls, MAP_CREATE, front)


class CpuMap(Map):
    """A BPF_MAP_TYPE_CPUMAP of (qsize, program) values.

    Raises:
        GuestError: the kernel refuses to make it.
    """

    def __init__(
        self, calls: Syscalls, *, max_entries: int, value_size: int = 8, name: str = "cpus"
    ) -> None:
        # libbpf calls a shared map by the kernel's name of it
        result = create_map(calls, value_size=value_size, max_entries=max_entries, name=name)
        fd = result.must("BPF_MAP_CREATE of a cpumap").value
        super().__init__(calls, fd, key_size=4, value_size=value_size, max_entries=max_entries)

    def value(self, qsize: int, prog: Program | None = None) -> bytes:
        """Pack a `struct bpf_cpumap_val`, or its first half for a value size of 4."""
        return struct.pack("<Ii", qsize, prog.fd if prog else 0)[: self.value_size]

    def set(self, cpu: int, qsize: int, prog: Program | None = None) -> None:
        """Make or replace an entry; returns when its kthread has run.

        Raises:
            GuestError: the kernel refuses it.
        """
        self.update(cpu, self.value(qsize, prog)).must(f"update of cpumap entry {cpu}")

    def remove(self, cpu: int) -> None:
        """Delete an entry.

        Raises:
            GuestError: the kernel refuses it.
        """
        self.delete(cpu).must(f"delete of cpumap entry {cpu}")


def is_alive(calls: Syscalls, command: int, number: int) -> bool:
    """Return whether the system still has an object.

    Args:
        calls: the agent.
        command: PROG_GET_FD_BY_ID or MAP_GET_FD_BY_ID.
        number: its id.

    Raises:
        GuestError: the kernel does not tell.
    """
    result = bpf(calls, command, struct.pack("<I", number))
    if result.errno == ENOENT:
        return False
    calls.must("close", result.must(f"descriptor of object {number}").value)
    return True


def attach_xdp(calls: Syscalls, prog: Program, ifindex: int, mode: str) -> Link:
    """Attach an XDP program through a link (BPF_LINK_CREATE for XDP, 5.9).

    Args:
        calls: the agent.
        prog: an XDP program.
        ifindex: of the interface.
        mode: "native" or "generic".

    Raises:
        GuestError: the kernel refuses it.
    """
    front = struct.pack("<IIII", prog.fd, ifindex, ATTACH_XDP, XDP_MODES[mode])
    result = bpf(calls, LINK_CREATE, front)
    return Link(calls, result.must(f"attach of XDP in {mode} mode").value)


def load_program(
    calls: Syscalls,
    code: bytes,
    *,
    type: int = PROG_TYPE_XDP,
    attach_type: int = ATTACH_XDP,
    flags: int = 0,
    ifindex: int = 0,
) -> tuple[Result, str]:
    """Load a program of a few instructions (BPF_PROG_LOAD), whatever the kernel says to it.

    Args:
        calls: the agent.
        code: its instructions; `harness.agent.insns` writes them.
        type: `enum bpf_prog_type`.
        attach_type: `enum bpf_attach_type`, the one expected.
        flags: BPF_F_XDP_HAS_FRAGS and the like.
        ifindex: of the device that it is bound to, if it is.

    Returns:
        The answer, whose value is the descriptor, and the verifier's log.
    """
    log = Buffer(LOG_BYTES, returned=True)
    front = struct.pack("<IIQQIIQII16sII", type, len(code) // 8, 0, 0, 1, LOG_BYTES, 0, 0, flags,
                        b"", ifindex, attach_type)  # fmt: skip
    result = bpf(calls, PROG_LOAD, front, {8: Buffer(code), 16: Buffer(b"GPL\0"), 32: log})
    return result, log.content.rstrip(b"\0").decode("utf-8", "replace")


def load_code(calls: Syscalls, code: bytes, **how: int) -> Program:
    """Load a program of a few instructions that the kernel must take, as `load_program`.

    Raises:
        GuestError: it refuses it.
    """
    result, log = load_program(calls, code, **how)
    return Program(calls, result.must(f"BPF_PROG_LOAD: {log}").value)


def load_verdict(calls: Syscalls, verdict: int, **how: int) -> Program:
    """Load a program that answers the same to every frame, as `load_code`."""
    return load_code(calls, insns.answer(verdict), **how)


def run_program(calls: Syscalls, prog: Program, frame: bytes = bytes(64)) -> tuple[Result, int]:
    """Run a program on one frame (BPF_PROG_TEST_RUN): the answer, and what the program returned.

    What it returns is not carried out: XDP_REDIRECT goes nowhere.
    """
    front = struct.pack("<IIIIQQI", prog.fd, 0, len(frame), 0, 0, 0, 1)
    union = Buffer(front.ljust(ATTR_BYTES, b"\0"), returned=True, pointers={16: Buffer(frame)})
    result = calls.raw("bpf", PROG_TEST_RUN, union, ATTR_BYTES)
    return result, int(struct.unpack_from("<I", union.content, 4)[0])


def start_live(
    calls: Syscalls, prog: Program, frame: bytes, *, ifindex: int, repeat: int, batch: int
) -> Started:
    """Start to run a program on frames made up on the spot (BPF_F_TEST_XDP_LIVE_FRAMES, 5.18).

    What it returns is carried out; all frames of a batch are flushed at once, at its end.

    Args:
        calls: the agent's thread whose CPU the frames come from.
        prog: an XDP program.
        frame: what each frame is at first; one that comes back from where it went is as that
            left it.
        ifindex: of the device that the frames come in by.
        repeat: how many.
        batch: frames in a batch, 256 at most; E2BIG beyond.
    """
    context = struct.pack("<6I", 0, len(frame), 0, ifindex, 0, 0)
    front = struct.pack("<4I2Q4I2Q3I", prog.fd, 0, len(frame), 0, 0, 0, repeat, 0, len(context), 0,
                        0, 0, F_TEST_XDP_LIVE_FRAMES, 0, batch)  # fmt: skip
    return start_bpf(calls, PROG_TEST_RUN, front, {16: Buffer(frame), 48: Buffer(context)})


def load_object(
    calls: Syscalls, path: str, maps: Mapping[str, tuple[str, int]]
) -> tuple[dict[str, Map], dict[str, Program]]:
    """Load a BPF object file of the guest's, through libbpf.

    Args:
        calls: the agent.
        path: in the guest, "/bpf/….bpf.o".
        maps: per map name ("fd", n) to share a map that exists, or ("max_entries", n).

    Returns:
        Its maps and its programs by name.

    Raises:
        GuestError: the kernel refuses it; the message has what libbpf and the verifier said.
    """
    map_fds, prog_fds = calls.link.call("bpf_load", path, dict(maps))
    return (
        {name: Map.of(calls, fd) for name, fd in map_fds.items()},
        {name: Program(calls, fd) for name, fd in prog_fds.items()},
    )
