"""Sizes of the kernel's structures, by its own BTF (Documentation/bpf/btf.rst)."""

from __future__ import annotations

import struct

VMLINUX = "/sys/kernel/btf/vmlinux"
KIND_INT, KIND_ARRAY, KIND_STRUCT, KIND_UNION, KIND_ENUM = 1, 3, 4, 5, 6
KIND_FUNC_PROTO, KIND_VAR, KIND_DATASEC, KIND_DECL_TAG, KIND_ENUM64 = 13, 14, 15, 17, 19
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_TAIL_FIXED = {KIND_INT: 4, KIND_ARRAY: 12, KIND_VAR: 4, KIND_DECL_TAG: 4}
_TAIL_EACH = {
    KIND_STRUCT: 12,
    KIND_UNION: 12,
    KIND_ENUM: 8,
    KIND_FUNC_PROTO: 8,
    KIND_DATASEC: 12,
    KIND_ENUM64: 12,
}


def struct_bytes(btf: bytes, name: str) -> int | None:
    """Return the size of a structure, or None if the BTF has none of that name.

    Args:
        btf: a whole BTF section, little endian.
        name: the structure's tag.
    """
    _, _, _, head, types, types_len, strings, strings_len = _HEADER.unpack_from(btf)
    text = btf[head + strings : head + strings + strings_len]
    # a name may be the tail of a longer one: the linker shares strings only whole
    wanted = text.find(b"\0" + name.encode() + b"\0") + 1
    at, end = head + types, head + types + types_len
    while wanted and at < end:
        name_off, info, size = _TYPE.unpack_from(btf, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        if kind == KIND_STRUCT and name_off == wanted:
            return int(size)
        at += _TYPE.size + _TAIL_FIXED.get(kind, 0) + count * _TAIL_EACH.get(kind, 0)
    return None


def int_type(name: str, size: int) -> bytes:
    """Return a BTF section with one unsigned integer, type 1, as user space loads it."""
    strings = b"\0" + name.encode() + b"\0"
    types = _TYPE.pack(1, KIND_INT << 24, size) + struct.pack("<I", size * 8)
    return _HEADER.pack(0xEB9F, 1, 0, _HEADER.size, 0, len(types), len(types), len(strings)) + (
        types + strings
    )
