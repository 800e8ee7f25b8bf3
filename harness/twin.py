"""A descriptor of a cpumap in the guest and of the same one in the model, asked the same."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from harness.agent.bpf import (
    MAP_DELETE_BATCH,
    MAP_DELETE_ELEM,
    MAP_FREEZE,
    MAP_GET_FD_BY_ID,
    MAP_GET_NEXT_KEY,
    MAP_LOOKUP_AND_DELETE_BATCH,
    MAP_LOOKUP_AND_DELETE_ELEM,
    MAP_LOOKUP_BATCH,
    MAP_LOOKUP_ELEM,
    MAP_UPDATE_BATCH,
    MAP_UPDATE_ELEM,
    Descriptor,
    bpf,
)
from harness.agent.syscalls import Buffer
from harness.model.control import CpumapVal
from harness.model.syscall import MapFile

if TYPE_CHECKING:
    from harness.agent.syscalls import Result, Syscalls
    from harness.casework import Casework
    from harness.model.control import NotProg, Prog

BATCHES = {
    "lookup_batch": (MAP_LOOKUP_BATCH, True, False),
    "lookup_and_delete_batch": (MAP_LOOKUP_AND_DELETE_BATCH, True, True),
    "update_batch": (MAP_UPDATE_BATCH, False, True),
    "delete_batch": (MAP_DELETE_BATCH, False, True),
}
"""Commands that a cpumap has not, and which rights they ask for first."""
PROT_READ, MAP_SHARED = 1, 1
ELEMENT = struct.Struct("<I4xQQQ")


@dataclass(frozen=True, slots=True)
class Ref:
    """A descriptor to put into an entry, and what the model knows of it."""

    fd: int
    model: Prog | NotProg | None


class Asker(Protocol):
    """Who has twins: makes their calls, and is told every difference (`harness.answers`)."""

    lab: Casework
    calls: Syscalls

    def check(self, call: str, model: object, kernel: object) -> None:
        """Compare two answers; whole numbers are errnos."""

    def own(self, fd: int) -> int:
        """Have a descriptor closed at the end."""


class Twin:
    """One descriptor; every method makes a call and compares the answers.

    After an update or a delete, the entry is looked up too: a call that failed has changed nothing.

    Args:
        ask: where differences are told.
        fd: the descriptor in the guest.
        model: the descriptor in the model.
    """

    def __init__(self, ask: Asker, fd: int, model: MapFile) -> None:
        self.ask = ask
        self.fd = fd
        self.model = model
        self.value_size = model.map.attr.value_size
        self.map_id = int(struct.unpack_from("<I", Descriptor(ask.calls, fd).info(), 4)[0])
        model.map.map_id = self.map_id

    def update(
        self, key: int | None, qsize: int | None = 192, prog: Ref | None = None, flags: int = 0
    ) -> None:
        """BPF_MAP_UPDATE_ELEM; a key or a qsize of None is a bad pointer."""
        value = val = None
        if qsize is not None:
            fd = prog.fd if prog else 0
            value = Buffer(struct.pack("<Ii", qsize, fd)[: self.value_size])
            val = CpumapVal(qsize, prog.model if prog else None)
        says = self.model.map_update_elem(key, val, flags)
        answer = self._element(MAP_UPDATE_ELEM, key, value, flags).errno
        call = f"update(key={key}, qsize={qsize}, prog={prog}, flags={flags:#x})"
        self.ask.check(call, says, answer)
        self._look_again(key, call)

    def delete(self, key: int | None) -> None:
        """BPF_MAP_DELETE_ELEM."""
        says = self.model.map_delete_elem(key)
        answer = self._element(MAP_DELETE_ELEM, key).errno
        self.ask.check(f"delete(key={key})", says, answer)
        self._look_again(key, f"delete(key={key})")

    def lookup(self, key: int | None, flags: int = 0, *, after: str = "") -> None:
        """BPF_MAP_LOOKUP_ELEM: errno, qsize and program id."""
        call = f"lookup(key={key}, flags={flags:#x}){after}"
        says, expected = self.model.map_lookup_elem(key, flags)
        value = Buffer(b"\xee" * self.value_size, returned=True)
        answer = self._element(MAP_LOOKUP_ELEM, key, value, flags).errno
        self.ask.check(call, says, answer)
        if says == answer == 0:
            found = struct.unpack(f"<{self.value_size // 4}I", value.content)
            self.ask.check(f"{call}: (qsize, program)", (expected or ())[: len(found)], found)

    def next_key(self, key: int | None) -> None:
        """BPF_MAP_GET_NEXT_KEY; None asks for the first key."""
        says, expected = self.model.map_get_next_key(key)
        value = Buffer(4, returned=True)
        answer = self._element(MAP_GET_NEXT_KEY, key, value).errno
        self.ask.check(f"get_next_key({key})", says, answer)
        if says == answer == 0:
            found = int.from_bytes(value.content, "little")
            self.ask.check(f"get_next_key({key}): the key", (expected,), (found,))

    def freeze(self) -> None:
        """BPF_MAP_FREEZE."""
        answer = bpf(self.ask.calls, MAP_FREEZE, struct.pack("<I", self.fd)).errno
        self.ask.check("freeze()", self.model.map_freeze(), answer)

    def batch(self, name: str) -> None:
        """One of `BATCHES`, of one element."""
        command, reads, writes = BATCHES[name]
        front = struct.pack("<QQQQII", 0, 0, 0, 0, 1, self.fd)
        memory = {8: Buffer(4), 16: Buffer(4), 24: Buffer(struct.pack("<II", 8, 0))}
        answer = bpf(self.ask.calls, command, front, memory).errno
        self.ask.check(f"{name}()", self.model.bpf_map_do_batch(reads=reads, writes=writes), answer)

    def lookup_and_delete(self, key: int) -> None:
        """BPF_MAP_LOOKUP_AND_DELETE_ELEM."""
        answer = self._element(MAP_LOOKUP_AND_DELETE_ELEM, key, Buffer(8)).errno
        says = self.model.bpf_map_do_batch(reads=True, writes=True)
        self.ask.check(f"lookup_and_delete(key={key})", says, answer)
        self._look_again(key, "lookup_and_delete")

    def map_memory(self) -> None:
        """mmap(2) of the descriptor, shared and read-only."""
        answer = self.ask.calls.raw("mmap", 0, 4096, PROT_READ, MAP_SHARED, self.fd, 0).errno
        self.ask.check("mmap()", self.model.bpf_map_mmap(), answer)

    def reopen(self, flags: int = 0) -> Twin:
        """Return one more descriptor of the map (BPF_MAP_GET_FD_BY_ID).

        Args:
            flags: BPF_F_RDONLY or BPF_F_WRONLY.
        """
        front = struct.pack("<III", self.map_id, 0, flags)
        result = bpf(self.ask.calls, MAP_GET_FD_BY_ID, front).must("BPF_MAP_GET_FD_BY_ID")
        return self.other(result.value, flags)

    def other(self, fd: int, flags: int = 0) -> Twin:
        """Return a twin for one more descriptor of the map."""
        return Twin(self.ask, self.ask.own(fd), MapFile(self.model.map, flags))

    def fdinfo(self) -> dict[str, str]:
        """Return what procfs says of the descriptor."""
        text = self.ask.lab.guest.read(f"/proc/self/fdinfo/{self.fd}")
        return {
            name: value.strip() for name, _, value in (x.partition(":") for x in text.split("\n"))
        }

    def _look_again(self, key: int | None, after: str) -> None:
        if key is not None and self.model.may_read and key < self.model.map.attr.max_entries:
            self.lookup(key, after=f" after {after}")

    def _element(
        self,
        command: int,
        key: int | None,
        value: Buffer | None = None,
        flags: int = 0,
        calls: Syscalls | None = None,
    ) -> Result:
        memory = {} if key is None else {8: Buffer(struct.pack("<I", key))}
        if value is not None:
            memory[16] = value
        front = ELEMENT.pack(self.fd, 0, 0, flags)
        return bpf(calls or self.ask.calls, command, front, memory)
