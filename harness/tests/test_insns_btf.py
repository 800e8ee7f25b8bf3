from __future__ import annotations

import struct

from harness.agent import btf, insns


def test_a_verdict_is_two_instructions() -> None:
    assert insns.answer(2) == bytes.fromhex("b700000002000000 9500000000000000")


def test_wide_numbers_take_two_slots() -> None:
    assert insns.load(insns.R2, 0x1_8000_0001) == bytes.fromhex("1802000001000080 0000000001000000")
    assert insns.load_map(insns.R1, 5)[:2] == bytes([0x18, 0x11])


def test_struct_size_is_found_behind_types_of_every_kind() -> None:
    strings = b"\0int\0map_x\0map\0"
    at = {name: strings.index(b"\0" + name + b"\0") + 1 for name in (b"int", b"map_x", b"map")}

    def kind(number: int, count: int = 0) -> int:
        return number << 24 | count

    types = b"".join(
        (
            struct.pack("<IIII", at[b"int"], kind(btf.KIND_INT), 4, 32),
            struct.pack("<III", 0, kind(2), 1),  # a pointer
            struct.pack("<III", at[b"map_x"], kind(btf.KIND_STRUCT, 2), 8) + bytes(24),
            struct.pack("<III", at[b"map"], kind(btf.KIND_UNION, 1), 99) + bytes(12),
            struct.pack("<III", 0, kind(btf.KIND_FUNC_PROTO, 3), 1) + bytes(24),
            struct.pack("<III", at[b"map"], kind(btf.KIND_STRUCT, 1), 288) + bytes(12),
        )
    )
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    section = head + types + strings
    assert btf.struct_bytes(section, "map") == 288
    assert btf.struct_bytes(section, "map_x") == 8
    assert btf.struct_bytes(section, "ap") is None
    assert btf.struct_bytes(btf.int_type("u32", 4), "u32") is None
