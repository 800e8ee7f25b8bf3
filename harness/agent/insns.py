"""The few BPF instructions that small programs are made of (include/uapi/linux/bpf.h)."""

from __future__ import annotations

import struct

PSEUDO_MAP_FD = 1
R0, R1, R2, R3, R4 = range(5)
R10 = 10
"""The frame pointer."""
MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM = 1, 2, 3
TAIL_CALL = 12
REDIRECT_MAP = 51
MAP_PUSH_ELEM, MAP_POP_ELEM, MAP_PEEK_ELEM = 87, 88, 89
"""Helpers, by number (enum bpf_func_id)."""

_INSN = struct.Struct("<BBhi")
_ALU64_MOV_K, _ALU64_MOV_X, _ALU64_ADD_K = 0xB7, 0xBF, 0x07
_LD_IMM64, _ST_MEM_W, _JEQ_K, _CALL, _EXIT = 0x18, 0x62, 0x15, 0x85, 0x95


def mov(register: int, value: int) -> bytes:
    """Set a register to a number of 32 bits, sign-extended."""
    return _INSN.pack(_ALU64_MOV_K, register, 0, value)


def copy(register: int, source: int) -> bytes:
    """Set a register to another."""
    return _INSN.pack(_ALU64_MOV_X, register | source << 4, 0, 0)


def add(register: int, value: int) -> bytes:
    """Add a number to a register."""
    return _INSN.pack(_ALU64_ADD_K, register, 0, value)


def load(register: int, value: int) -> bytes:
    """Set a register to a number of 64 bits."""
    return _wide(register, 0, value)


def load_map(register: int, fd: int) -> bytes:
    """Set a register to the address of a map."""
    return _wide(register, PSEUDO_MAP_FD, fd)


def store(offset: int, value: int) -> bytes:
    """Store 32 bits on the stack."""
    return _INSN.pack(_ST_MEM_W, R10, offset, value)


def call(helper: int) -> bytes:
    """Call a helper."""
    return _INSN.pack(_CALL, 0, 0, helper)


def leave() -> bytes:
    """Return R0."""
    return _INSN.pack(_EXIT, 0, 0, 0)


def answer(value: int) -> bytes:
    """Return a number: a whole program."""
    return mov(R0, value) + leave()


def redirect(map_fd: int, key: int, flags: int = 0) -> bytes:
    """Return what bpf_redirect_map says: a whole program."""
    return (
        load_map(R1, map_fd) + load(R2, key) + load(R3, flags) + call(REDIRECT_MAP) + leave()
    )  # fmt: skip


def redirect_by(outer_fd: int, place: int, key: int, flags: int = 0) -> bytes:
    """Return what bpf_redirect_map says of a map in a map of maps, 0 without one: all of a program.

    Args:
        outer_fd: the map of maps.
        place: key of the map in it.
        key: key in that map.
        flags: of bpf_redirect_map.
    """
    found = copy(R1, R0) + load(R2, key) + load(R3, flags) + call(REDIRECT_MAP)
    find = load_map(R1, outer_fd) + copy(R2, R10) + add(R2, -4) + call(MAP_LOOKUP_ELEM)
    skip = _INSN.pack(_JEQ_K, R0, len(found) // _INSN.size, 0)
    return store(-4, place) + find + skip + found + leave()


def _wide(register: int, source: int, value: int) -> bytes:
    low, high = struct.unpack("<ii", struct.pack("<Q", value))
    return _INSN.pack(_LD_IMM64, register | source << 4, 0, low) + _INSN.pack(0, 0, 0, high)
