"""The kernel's answers beside the model's: ask both the same, and tell every difference at once."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from harness.agent import btf, insns
from harness.agent.bpf import (
    ATTACH_XDP_CPUMAP,
    BTF_LOAD,
    F_XDP_DEV_BOUND_ONLY,
    F_XDP_HAS_FRAGS,
    MAP_TYPE_ARRAY_OF_MAPS,
    PROG_GET_FD_BY_ID,
    PROG_TYPE_XDP,
    Map,
    Program,
    bpf,
    create_map,
    is_alive,
    load_program,
    run_program,
)
from harness.agent.syscalls import Buffer
from harness.errors import GuestError
from harness.model.control import MapAttr, Prog
from harness.model.facts import Facts, errno_name, parse_list
from harness.model.syscall import Task, map_create
from harness.twin import Ref, Twin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.agent.syscalls import Result, Syscalls
    from harness.casework import Casework
    from harness.guest import Guest

CLOSED_FD = 999
"""A descriptor that the agent never has open."""
ENOENT = 2
UNPRIVILEGED = "/proc/sys/kernel/unprivileged_bpf_disabled"


class Answers:
    """Calls made to a guest's kernel and to the model alike.

    As a context it ends by comparing the kthreads that there are with those that there should be,
    and those that are left when all is closed with none. Then it fails with every difference.

    Args:
        lab: the case.
        exact_memory: ask the kernel's BTF for sizeof(struct bpf_cpu_map), which takes a second.

    Attributes:
        facts: of the guest.
    """

    def __init__(self, lab: Casework, *, exact_memory: bool = False) -> None:
        self.lab = lab
        self.calls = lab.guest.calls
        self.facts = facts_of(lab.guest, exact_memory=exact_memory)
        self._twins: list[Twin] = []
        self._open: list[int] = []
        self._wrong: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.settle()
            for fd in reversed(self._open):
                self.calls.raw("close", fd)
            self.check("kthreads when all is closed", [], self.lab.wait_kthreads(0))
            if self._wrong:
                raise AssertionError(
                    "\n".join(("the kernel differs from the model:", *self._wrong))
                )

    def check(self, call: str, model: object, kernel: object) -> None:
        """Compare two answers; whole numbers are errnos."""
        if model != kernel:
            self._wrong.append(f"{call}: the model says {_name(model)}, not {_name(kernel)}")

    def settle(self) -> None:
        """Compare the kthreads that there are with those of the model's entries."""
        names = sorted(name for twin in self._twins for name in twin.model.map.kthreads)
        self.lab.wait_for(lambda: self.lab.kthreads() == names)
        self.check("kthreads", names, self.lab.kthreads())

    def own(self, fd: int) -> int:
        """Have a descriptor closed at the end."""
        self._open.append(fd)
        return fd

    def close(self, fd: int) -> None:
        """Close a descriptor of these answers' now."""
        self._open.remove(fd)
        self.calls.must("close", fd)

    def create(
        self, task: Task | None = None, calls: Syscalls | None = None, **asked: int
    ) -> Twin | None:
        """BPF_MAP_CREATE of a cpumap: return it, if both say so.

        Args:
            task: who asks, as the model sees it.
            calls: and who asks indeed.
            asked: fields of `harness.model.control.MapAttr`.
        """
        attr = MapAttr(**asked)  # type: ignore[arg-type]
        says, model = map_create(self.facts, attr, task)
        result = create_map(
            calls or self.calls,
            max_entries=attr.max_entries,
            key_size=attr.key_size,
            value_size=attr.value_size,
            flags=attr.map_flags,
            numa_node=attr.numa_node,
            ifindex=attr.map_ifindex,
            btf=self._btf() if attr.btf else (0, 0, 0),
            extra=attr.map_extra,
        )
        self.check(f"create({_args(asked)}) by {task or 'root'}", says, result.errno)
        if result.errno:
            return None
        self.own(result.value)
        if model is None:
            return None
        twin = Twin(self, result.value, model)
        self._twins.append(twin)
        return twin

    def cpumap(self, **asked: int) -> Twin:
        """Return a cpumap that can be made, or fail the case here."""
        twin = self.create(None, None, **asked)
        if twin is None:
            raise AssertionError("\n".join(self._wrong))
        return twin

    def forget(self, twin: Twin) -> None:
        """Close a map: the model, too, has it no more."""
        self._twins.remove(twin)
        self.close(twin.fd)

    def map_of_maps(
        self,
        inner: Sequence[Twin],
        *,
        like: Twin | None = None,
        type: int = MAP_TYPE_ARRAY_OF_MAPS,
    ) -> Map:
        """Return a map of 4 maps, of which the first are there: like one of them, or another.

        Raises:
            GuestError: the kernel refuses it, or one of them.
        """
        fd = (like or inner[0]).fd
        made = create_map(self.calls, type=type, value_size=4, max_entries=4, inner_fd=fd)
        outer = Map.of(self.calls, self.own(made.must("map of maps").value))
        for key, twin in enumerate(inner):
            outer.update(key, struct.pack("<I", twin.fd)).must("map in a map")
        return outer

    def program(
        self,
        verdict: int = 2,
        *,
        code: bytes | None = None,
        type: int = PROG_TYPE_XDP,
        attach_type: int = ATTACH_XDP_CPUMAP,
        flags: int = 0,
        ifindex: int = 0,
    ) -> Ref:
        """Return a program that answers `verdict`, or runs `code`.

        Raises:
            GuestError: the kernel refuses it.
        """
        result, log = load_program(
            self.calls,
            code or insns.answer(verdict),
            type=type,
            attach_type=attach_type,
            flags=flags,
            ifindex=ifindex,
        )
        fd = self.own(result.must(f"BPF_PROG_LOAD: {log}").value)
        frags, bound = bool(flags & F_XDP_HAS_FRAGS), bool(flags & F_XDP_DEV_BOUND_ONLY)
        prog_id = Program(self.calls, fd).id
        return Ref(fd, Prog(prog_id, type, attach_type, frags=frags, dev_bound=bound))

    def redirector(self, twin: Twin, *, key: int = 0, redirect_flags: int = 0, **how: int) -> Ref:
        """Load a program that redirects into a map; the model is asked whether it may."""
        code = insns.redirect(twin.fd, key, redirect_flags)
        how = {"attach_type": 0, **how}
        result, _ = load_program(self.calls, code, **how)
        flags = how.get("flags", 0)
        prog = Prog(
            0,
            expected_attach_type=0,
            frags=bool(flags & F_XDP_HAS_FRAGS),
            dev_bound=bool(flags & F_XDP_DEV_BOUND_ONLY),
        )
        says = twin.model.map.bpf_prog_load_uses(prog)
        self.check(f"load of a redirector into it ({_args(how)})", says, result.errno)
        return Ref(self.own(result.value) if not result.errno else -1, prog)

    def redirects(self, twin: Twin, key: int, flags: int = 0) -> None:
        """Run a program that redirects into a map, and compare the action it answers."""
        ref = self.redirector(twin, key=key, redirect_flags=flags)
        result, action = run_program(self.calls, Program(self.calls, ref.fd))
        result.must("BPF_PROG_TEST_RUN")
        says = twin.model.map.cpu_map_redirect(key, flags)
        self.check(f"bpf_redirect_map(key={key:#x}, flags={flags:#x})", (says,), (action,))
        self.close(ref.fd)

    def program_lives(self, prog_id: int) -> bool:
        """Return whether a program is still there (BPF_PROG_GET_FD_BY_ID)."""
        return is_alive(self.calls, PROG_GET_FD_BY_ID, prog_id)

    def wait_program_gone(self, prog_id: int) -> bool:
        """Wait for a program to go and return whether it did: entries end asynchronously."""
        self.lab.wait_for(lambda: not self.program_lives(prog_id))
        return not self.program_lives(prog_id)

    def _btf(self) -> tuple[int, int, int]:
        """Load a BTF of one integer; it describes keys and, with a value size of 4, values."""
        data = btf.int_type("u32", 4)
        front = struct.pack("<QQI", 0, 0, len(data))
        result: Result = bpf(self.calls, BTF_LOAD, front, {0: Buffer(data)})
        return self.own(result.must("BPF_BTF_LOAD").value), 1, 1


def facts_of(guest: Guest, *, exact_memory: bool = False) -> Facts:
    """Return what the model has to know of a guest.

    Raises:
        GuestError: the guest does not tell.
    """
    cpu = "/sys/devices/system/cpu"
    facts = Facts(
        kernel=guest.machine.kernel.numbers,
        nr_cpus=int(guest.read(f"{cpu}/kernel_max")) + 1,
        possible=parse_list(guest.read(f"{cpu}/possible")),
        online=parse_list(guest.read(f"{cpu}/online")),
        nodes=parse_list(_read(guest, "/sys/devices/system/node/online") or "0"),
        unprivileged_bpf_disabled=_read(guest, UNPRIVILEGED).strip() != "0",
    )
    if not exact_memory:
        return facts
    whole: bytes = guest.calls.link.call("read", btf.VMLINUX, 16 << 20)
    return replace(facts, map_bytes=btf.struct_bytes(whole, "bpf_cpu_map") or 0)


def _read(guest: Guest, path: str) -> str:
    try:
        return guest.read(path)
    except GuestError as error:
        if error.errno != ENOENT:
            raise
        return ""


def _args(fields: object) -> str:
    assert isinstance(fields, dict)
    return ", ".join(f"{name}={value}" for name, value in fields.items())


def _name(answer: object) -> str:
    return errno_name(answer) if type(answer) is int else repr(answer)
